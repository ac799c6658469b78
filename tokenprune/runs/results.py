"""Result rows on disk: schema, atomic write, what counts as finished, collecting into a table."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import OtherVersion, ResultSchemaError
from tokenprune.runs.run_key import MEASURES, SCHEMA
from tokenprune.utils.files import atomic_write

if TYPE_CHECKING:
    from pandas import DataFrame

STATUSES = ("ok", "invalid", "diverged", "oom", "failed")
FINISHED = ("ok", "diverged")  # a diverged row would diverge again; the others may be mended, so they are tried again
_FIELDS: dict[str, type] = {
    "schema": int, "status": str, "reason": str, "key": str, "config": dict, "label": str, "method": str, "treatment": str, "scale": str,
    "task": str, "data": str, "seed": int, "metrics": dict, "cost": dict, "cls": str, "execution": str, "environment": dict,
    "timing": dict, "notes": list,
}  # fmt: skip
_OPTIONAL_FIELDS: dict[str, type] = {"made": str, "plugins": dict, "command": str}  # younger than the first rows
COST = (
    "gmac_linear", "gmac_attention", "gmac_norm", "gmac_selector", "gmac_total", "kept_share", "kept_per_block", "seconds_encoder",
    "seconds_total", "speedup_encoder", "seconds_note", "kept_share_uncalibrated", "seconds_backbone", "throughput_batch",
    "throughput_mean", "throughput_sd", "throughput_speedup", "throughput_note", "parameters", "gmac_note", "gmac_head",
    "memory_encoder_mib", "seconds_encoder_quartiles", "seconds_total_quartiles", "speedup_encoder_quartiles", "speedup_paper_size",
    "seconds_paper_size", "kept_share_paper_size", "paper_size_note",
)  # fmt: skip
_SECTIONS = ("selector", "treatment", "schedule", "backbone", "data", "task", "training", "losses")  # of a configuration
_AT_LARGEST = ("images_per_second_batch", "images_per_second", "speedup_batch")
ENVIRONMENT = ("python", "torch", "timm", "detectron2", "device", "threads", "commit", "dirty", "tokenprune")
_THROUGHPUT = tuple(name for name in COST if name.startswith("throughput_"))  # lists, an entry a batch size
# younger than the first rows; of selectors with thresholds only; of task=timm only; of segmentation only; where it is measured
_YOUNGER = ("seconds_backbone", "parameters", "memory_encoder_mib", *(name for name in COST if name.endswith("_quartiles")))
_PAPER_SIZE = ("speedup_paper_size", "seconds_paper_size", "kept_share_paper_size")
_OPTIONAL = ("kept_share_uncalibrated", "gmac_note", "gmac_head", *_YOUNGER, *_THROUGHPUT, *_PAPER_SIZE, "paper_size_note")
# What a task does not know: a model as timm has it need not have tokens, an encoder, or norms that somebody counted.
_UNKNOWN = {"timm": ("gmac_norm", "gmac_selector", "kept_share", "kept_per_block", "seconds_encoder", "speedup_encoder")}
# speed is not measured for masked execution, a classifier has no backbone of its own, a batch may be too large for the memory
_NULLABLE = (
    "seconds_encoder",
    "seconds_backbone",
    "seconds_total",
    "speedup_encoder",
    "detectron2",
    "commit",
    "dirty",
    *_THROUGHPUT,
    *_PAPER_SIZE,
)


def check(row: Mapping[str, Any]) -> None:
    """Hold a row against the schema.

    Raises:
        OtherVersion: The row is of another schema.
        ResultSchemaError: lists every unknown, missing, wrongly typed and non-finite field.
    """
    if isinstance(row.get("schema"), int) and row["schema"] != SCHEMA:
        raise OtherVersion(row.get("key", "?"), row["schema"], SCHEMA, _maker(row))
    known = {**_FIELDS, **_OPTIONAL_FIELDS}
    problems = [f"unknown field {k!r}" for k in row if k not in known] + [f"missing field {k!r}" for k in _FIELDS if k not in row]
    problems += [f"{k} is {row[k]!r}, expected {t.__name__}" for k, t in known.items() if k in row and not _is(row[k], t)]
    if not problems:
        problems = _check_values(row)
    if problems:
        raise ResultSchemaError(f"result row {row.get('key', '?')} does not follow schema {SCHEMA}: {'; '.join(problems)}; run it again")


def write_result(folder: Path | str, row: Mapping[str, Any]) -> Path:
    """Check `row` and write it as folder/result.json: readers see the whole file or none, also if the process is killed."""
    check(row)
    path = Path(folder) / "result.json"
    text = json.dumps(row, indent=1, allow_nan=False)
    atomic_write(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    return path


def read_result(path: Path | str) -> dict[str, Any]:
    """Read and check one result.json.

    Raises:
        ResultSchemaError: no JSON, or not of this schema.
    """
    try:
        row = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultSchemaError(f"{path} is no readable result ({error}); remove it and run the row again") from error
    if not isinstance(row, dict):
        raise ResultSchemaError(f"{path} holds a {type(row).__name__}, expected a result row; remove it and run the row again")
    check(row)
    return row


def finished(folder: Path | str) -> dict[str, Any] | None:
    """Return the row of a folder if it need not be run again; None for missing, unreadable, failed and invalid ones."""
    try:
        row = read_result(Path(folder) / "result.json")
    except ResultSchemaError:
        return None
    return row if row["status"] in FINISHED else None


def row_folder(results_dir: Path | str, key: str) -> Path:
    """Return where the row of a key lies."""
    return Path(results_dir) / "rows" / key


def collect(results_dir: Path | str) -> "DataFrame":
    """Return every row under a results folder as a DataFrame, one flat column a field (see `frame`)."""
    return frame(read_result(path) for path in sorted(Path(results_dir).glob("rows/*/result.json")))


def frame(rows: Iterable[Mapping[str, Any]]) -> "DataFrame":
    """Return rows as a DataFrame: metrics and cost flat, keep_rate taken from the schedule, the rest of the configuration left out."""
    import pandas

    return pandas.DataFrame([flat(row) for row in rows])


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without nesting."""
    plain = {k: row[k] for k in ("key", "label", "method", "treatment", "scale", "task", "data", "seed", "cls", "execution")}
    plain["keep_rate"] = row["config"].get("schedule", {}).get("keep_rate")
    plain.update(row["metrics"])
    plain.update(scalars(row["cost"]))
    plain.update({k: row["environment"].get(k) for k in ENVIRONMENT})
    return {**plain, "status": row["status"], "reason": row["reason"]}


def scalars(cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return the costs that are one value each, and of throughput the largest batch that ran.

    That is images_per_second, images_per_second_batch (its size) and speedup_batch (over the dense backbone, at that size).
    """
    plain = {k: v for k, v in cost.items() if not isinstance(v, list)}
    lists = (cost.get(f"throughput_{name}", ()) for name in ("batch", "mean", "speedup"))
    ran = [point for point in zip(*lists, strict=True) if point[1] is not None]
    return {**plain, **(dict(zip(_AT_LARGEST, ran[-1], strict=True)) if ran else {})}


def _maker(row: Mapping[str, Any]) -> str:
    """Return the version of this package that wrote a row of any schema; "unknown" if it does not say."""
    environment = row.get("environment")
    return str(environment.get("tokenprune") or "unknown") if isinstance(environment, Mapping) else "unknown"


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _check_values(row: Mapping[str, Any]) -> list[str]:
    problems, measured = [], row["config"].get("measure", MEASURES)
    problems += [f"config.{k} is {v!r}, expected a mapping" for k, v in row["config"].items() if k in _SECTIONS and not isinstance(v, dict)]
    if row["status"] not in STATUSES:
        problems.append(f"status is {row['status']!r}, allowed: {', '.join(STATUSES)}")
    problems += [
        f"plugins.{k} is {v!r}, expected a mapping with module, package, version and code"
        for k, v in row.get("plugins", {}).items()
        if not isinstance(v, dict) or not {"module", "package", "version", "code"} <= v.keys()
    ]
    problems += [f"unknown metric name {k!r}" for k in row["metrics"] if not re.fullmatch(r"[a-z][a-z0-9_]*", str(k))]
    for section, names in (("cost", COST), ("environment", ENVIRONMENT)):
        problems += [f"unknown field {section}.{k}" for k in row[section] if k not in names]
        if row["status"] == "ok" and (section != "cost" or "cost" in measured):
            spared = {*row[section], *_OPTIONAL, *_UNKNOWN.get(row["task"], ())}
            problems += [f"missing field {section}.{k}" for k in names if k not in spared]
        if row["status"] == "ok" and section == "cost" and "throughput" in measured:
            problems += [f"missing field cost.{k}" for k in _THROUGHPUT if k not in row["cost"]]
    if row["status"] == "ok" and "accuracy" in measured and not row["metrics"]:
        problems.append("an `ok` row has no metrics")
    for section in ("metrics", "cost", "timing"):
        problems += [f"{section}.{k} is {v!r}, expected finite numbers" for k, v in row[section].items() if not _finite(k, v)]
    return problems


def _finite(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return all(_finite(name, v) for v in value)
    if name.endswith("_note"):
        return isinstance(value, str)
    if value is None:
        return name in _NULLABLE
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
