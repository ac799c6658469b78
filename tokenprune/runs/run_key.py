"""The run key: what a row's numbers depend on, as a digest. Equal keys share a row; two keys never share a folder."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.engine.schedule import ANSWERS, TARGET
from tokenprune.runs.plugin_options import KINDS, without_defaults
from tokenprune.utils.paths import weights_path

SCHEMA = 1  # of result.json; part of the key, so that a new schema never reads old rows
STARTS = ("dense", "pretrained", "scratch")
# What names a run or says where it lies, but does not change its numbers: tables share rows that differ in these alone.
VOLATILE = (
    "results_dir", "validate_only", "label", "treatment_labels", "experiment", "method", "scale", "export_weights", "reports", "with_rows",
)  # fmt: skip
MEASURES = ("accuracy", "cost")  # what a row holds by default
MORE_MEASURES = ("throughput",)  # what it holds if asked
NO_EFFECT = ("checkpoint_every", "workers")


def run_key(config: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of the sha256 of a resolved configuration without what does not change its numbers.

    Files count by content (see `fingerprint`) and not by path. What the row does not depend on is left out: with `init: scratch` the
    dense model's recipe, with `init_weights` everything that would make those weights, and options that equal their plugin's default.
    """
    relevant = {k: _pruned(v) if k in ("training", "dense", "pretrained") else v for k, v in config.items() if k not in VOLATILE}
    relevant["backbone"] = {k: v for k, v in relevant.get("backbone", {}).items() if k not in ("name", "size")}
    relevant |= {kind: without_defaults(kind, relevant.get(kind, {})) for kind in KINDS}
    _start(relevant)
    if sorted(relevant.get("measure", ())) == sorted(MEASURES):
        relevant.pop("measure")  # the key of a row from before there was a choice
    if relevant.get("schedule", {}).get(TARGET) is not None:
        relevant["schedule"] = {k: v for k, v in relevant["schedule"].items() if k not in ANSWERS}
    relevant["data"] = _data(relevant.get("data", {}))
    text = json.dumps({"schema": SCHEMA, **relevant}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(path: Path | str) -> str:
    """Return a short digest of a file: its size, its first and its last MiB; the path itself where there is no file."""
    path = Path(path)
    if not path.is_file():
        return str(path)
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read())
    return digest.hexdigest()[:16]


def _pruned(section: Any) -> Any:
    if not isinstance(section, Mapping):
        return section
    return {k: _pruned(v) for k, v in section.items() if k not in NO_EFFECT}


def _start(config: dict[str, Any]) -> None:
    init, weights = config.get("init"), config.get("init_weights")
    if init != "dense" or weights is not None:
        config.pop("dense", None)
    if init == "scratch" or weights is not None or (init == "dense" and config["dense"].get("init") != "pretrained"):
        config.pop("pretrained", None)
    config["init"] = _start_of(init)
    if "dense" in config:
        config["dense"] = {**config["dense"], "init": _start_of(config["dense"].get("init"))}
    config["init_weights"] = None if weights is None else fingerprint(weights_path(weights))


def _start_of(value: str | None) -> str | None:
    return value if value in STARTS or value is None else fingerprint(weights_path(value))


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    root, folders = data.get("root"), data.get("name") == "imagefolder"
    if not isinstance(root, str) or not (Path(root).is_dir() or (folders and Path(root).is_file())):
        return dict(data)
    splits = [str(v) for k, v in data.items() if k.endswith("_split")]
    if data.get("name") == "semantic":
        found = _labels(Path(root), data, splits)
    elif folders:
        found = {p.name: fingerprint(p) if p.is_file() else _names(p) for p in _sources(Path(root), splits)}
    else:
        files = sorted(p for p in Path(root).glob("annotations/*.json") if any(s in p.name for s in splits))
        found = {p.name: fingerprint(p) for p in files}
    return {**{k: v for k, v in data.items() if k != "root"}, "files": found}


def _sources(root: Path, splits: list[str]) -> list[Path]:
    """The folders and archives of an image folder root, or the root itself where that is an archive."""
    return [root] if root.is_file() else sorted(p for p in root.iterdir() if p.stem in splits)


def _labels(root: Path, data: Mapping[str, Any], splits: list[str]) -> dict[str, str]:
    """The files of a set of label images, by name and size, and its list of classes."""
    folders = [root / str(data.get("labels", "")).replace("{split}", split) for split in splits]
    found = {}
    for folder in (f for f in folders if f.is_dir()):
        listing = sorted((entry.name, entry.stat().st_size) for entry in os.scandir(folder) if entry.is_file())
        found[folder.relative_to(root).as_posix()] = hashlib.sha256(repr(listing).encode(errors="surrogateescape")).hexdigest()[:16]
    classes = data.get("classes")
    return {**found, **({classes: fingerprint(root / classes)} if isinstance(classes, str) else {})}


def _names(folder: Path) -> str:
    """Return a short digest of the file names in class folders: millions of images are not read for a key."""
    digest = hashlib.sha256()
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        digest.update(f"{part.name}: {sorted(os.listdir(part))}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
