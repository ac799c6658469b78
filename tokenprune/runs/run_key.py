"""The run key: what a row's numbers depend on, as a digest. Equal keys share a row; two keys never share a folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.data.source import data_source
from tokenprune.engine.schedule import ANSWERS, TARGET
from tokenprune.errors import TokenPruneError
from tokenprune.registry import get, names, origin
from tokenprune.runs.plugin_options import KINDS, without_defaults
from tokenprune.runs.run import Run
from tokenprune.utils.code import code_digest
from tokenprune.utils.files import digest
from tokenprune.utils.hf_folder import folder_files, is_hf
from tokenprune.utils.paths import home_path, weights_path

SCHEMA = 1  # of result.json; part of the key, so that a new schema never reads old rows
STARTS = ("dense", "pretrained", "scratch")
# What names a run or says where it lies, but does not change its numbers: tables share rows that differ in these alone.
VOLATILE = (
    "results_dir", "validate_only", "label", "treatment_labels", "experiment", "method", "scale", "export_weights", "reports",
    "with_rows", "fresh", "tracking",
)  # fmt: skip
MEASURES = ("accuracy", "cost")  # what a row holds by default
MORE_MEASURES = ("throughput",)  # what it holds if asked
NO_EFFECT = ("checkpoint_every", "workers")


def run_key(config: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits of the sha256 of what a resolved configuration's numbers depend on, code of plugins included."""
    text = json.dumps({"schema": SCHEMA, **relevant_of(config), "sources": _sources(config)}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def relevant_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration without what does not change its numbers.

    Files count by content and not by path, large folders by names, sizes and times. What the row does not depend on is left out: with
    `init: scratch` the dense model's recipe, with `init_weights` everything that would make those weights, and options that equal their
    plugin's default.
    """
    relevant = {k: _pruned(v) if k in ("training", "dense", "pretrained") else v for k, v in config.items() if k not in VOLATILE}
    relevant["backbone"] = _backbone(relevant.get("backbone", {}))
    relevant |= {kind: without_defaults(kind, relevant[kind]) for kind in KINDS if isinstance(relevant.get(kind), Mapping)}
    _start(relevant)
    if sorted(relevant.get("measure", ())) == sorted(MEASURES):
        relevant.pop("measure")  # the key of a row from before there was a choice
    if relevant.get("schedule", {}).get(TARGET) is not None:
        for axis, found in (("schedule", ANSWERS), ("selector", (Run.of(config).dial or ())[:1])):
            relevant[axis] = {k: v for k, v in relevant[axis].items() if k not in found}
    relevant["data"] = _data(relevant.get("data", {}))
    return relevant


def _sources(config: Mapping[str, Any]) -> dict[str, str]:
    """Return {module: digest of its code} of the plugins that a run uses: a method that was edited between two runs is another method."""
    plugins = sorted(chosen_plugins(config).values(), key=lambda plugin: plugin.__module__)
    return {plugin.__module__: code_digest(plugin) for plugin in plugins}


def plugins_of(config: Mapping[str, Any]) -> dict[str, dict[str, str | None]]:
    """Return {"selector.evit": origin} of the plugins that a run uses: `module`, `package` and its `version`, digest of the `code`."""
    return {name: {**origin(plugin.__module__), "code": code_digest(plugin)} for name, plugin in chosen_plugins(config).items()}


def changed_code(row: Mapping[str, Any]) -> str:
    """Return in words which of a row's selector, treatment and schedule have other code than when the row was made; "" for none.

    Rows of earlier versions do not record their code: nothing is known of them.
    """
    then, now = row.get("plugins", {}), plugins_of(row["config"])
    watched = [name for name in then if name.partition(".")[0] in KINDS]
    changed = [name.replace(".", " ") for name in watched if now.get(name, {}).get("code") != then[name]["code"]]
    return f"the code of {', '.join(changed)} changed since row {row.get('key', '')} was made" if changed else ""


def chosen_plugins(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"kind.name": class} of the plugins that a run uses; names that are not registered are left out."""
    groups = [(kind, config.get(kind)) for kind in (*KINDS, "data", "task")]
    chosen = [(kind, group.get("name")) for kind, group in groups if isinstance(group, Mapping)]
    chosen += [("loss", name) for name in config.get("losses", {})]
    return {f"{kind}.{name}": get(kind, name) for kind, name in chosen if name in names(kind)}


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
    config["init_weights"] = None if weights is None else digest(weights_path(weights))


def _start_of(value: str | None) -> str | None:
    if value in STARTS or value is None:
        return value
    path = weights_path(value)
    return _content(path) if path.is_dir() else digest(path)


def _backbone(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's settings without its names; a folder of transformers by its content."""
    found = {k: v for k, v in backbone.items() if k not in ("name", "size")}
    folder = home_path(str(backbone.get("model")))
    return {**found, "model": _content(folder)} if is_hf(backbone) and folder.is_dir() else found


def _content(folder: Path) -> str:
    """Return a digest of the files of a folder of transformers, by name and content."""
    told = json.dumps([(path.name, digest(path)) for path in folder_files(folder)])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data's options with digests of its files in the place of their folder; as they are where it is not there."""
    try:
        source = data_source(data)
    except TokenPruneError:  # validation refuses it
        return dict(data)
    files = {} if source.missing() else source.files()
    return {**{k: v for k, v in data.items() if k != "root"}, "files": files} if files else dict(data)
