"""Joins rows that differ only in their seed: their summary in one line, and differences paired by seed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from tokenprune.runs.run_key import run_key

SAME = ["configuration", "label", "treatment"]
ONE = [*SAME, "cls", "seed"]  # rows that agree in these are one row, run again


def configuration(config: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """Return a digest of a resolved configuration without the run's seed, and without the sections named in `without`.

    The seeds of a data set, of a selector's draw and of the dense model are part of the comparison and stay.
    """
    kept = {k: v for k, v in config.items() if k != "seed" and k not in without}
    if isinstance(kept.get("training"), Mapping):
        own = kept["training"].get("seed") not in (None, config.get("seed"))  # the training has another seed than the run
        kept["training"] = {k: v for k, v in kept["training"].items() if k != "seed" or own}
    return run_key(kept)


@dataclass(frozen=True)
class Difference:
    """Holds the mean of differences paired by seed.

    Attributes:
        mean: The mean.
        error: Its standard error; NaN for one pair.
        n: Number of pairs.
    """

    mean: float
    error: float
    n: int


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return first minus second over the seeds that both have; None if they share none."""
    gaps = [first[seed] - second[seed] for seed in first if seed in second]
    if not gaps:
        return None
    return Difference(fmean(gaps), stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan, len(gaps))


def newest(data: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that count, and those left out: older ones of the same configuration, names and seed.

    Such rows are no repetitions with another seed: the code, the input files or the machine changed between them. `made` tells which is
    the newest. Where it is empty, the last of them in the table counts.
    """
    when = data["made"].fillna("").astype(str) if "made" in data else pd.Series("", index=data.index)
    ordered = data.assign(_when=when).sort_values("_when", kind="stable")
    older = ordered.index[ordered.duplicated(ONE, keep="last")]
    return data.drop(index=older), data.loc[data.index.isin(older)]


def repeated(data: pd.DataFrame) -> bool:
    """Tell if a configuration of `data` (`tables.rows_frame`) was run with several seeds."""
    return bool(data.duplicated(SAME).any())


def collapse(data: pd.DataFrame, measured: Sequence[str]) -> pd.DataFrame:
    """Return one line a configuration under the columns of `data`: means over the seeds that are ok.

    Args:
        data: See `tables.rows_frame`.
        measured: Columns to average. NAME_se becomes the standard deviation over seeds if there are several, else it stays.

    Returns:
        `data` with columns `n` (number of rows that are ok) and `seeds`: "3", or "2 of 3" if a row is not ok. `status` names the states of
        the others.
    """
    lines = []
    for group, good in _groups(data):
        line = (good if len(good) else group).iloc[0].copy()
        for name in measured:
            values = _values(good, name)
            line[name] = fmean(values) if values else math.nan
            if f"{name}_se" in data and len(values) > 1:
                line[f"{name}_se"] = stdev(values)
        line["seeds"] = str(len(group)) if len(good) == len(group) else f"{len(good)} of {len(group)}"
        line["status"], line["n"] = _status(group), len(good)
        lines.append(line)
    return pd.DataFrame(lines).reset_index(drop=True)


def summarise(data: pd.DataFrame, measured: Sequence[str]) -> pd.DataFrame:
    """Return one line a configuration: its identity, seeds, n (number of rows that are ok), NAME_mean and NAME_std (empty for n = 1)."""
    which = ["label", "method", "treatment", "scale", "task", "data", "cls", "execution", "size", "keep_rate"]
    which += ["setting"] * ("setting" in data)
    lines = []
    for group, good in _groups(data):
        line = {name: group.iloc[0][name] for name in which} | {"status": _status(group)}
        line |= {"seeds": " ".join(map(str, group["seed"])), "n": len(good)}
        for name in measured:
            values = _values(good, name)
            line[f"{name}_mean"] = fmean(values) if values else None
            line[f"{name}_std"] = stdev(values) if len(values) > 1 else None
        lines.append(line)
    return pd.DataFrame(lines)


def _groups(data: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    for _, group in data.groupby(SAME, sort=False):
        yield group, group[group["status"] == "ok"]


def _values(rows: pd.DataFrame, name: str) -> list[float]:
    return [float(v) for v in rows[name] if not pd.isna(v)] if name in rows else []


def _status(group: pd.DataFrame) -> str:
    counts = group["status"].value_counts(sort=False)
    return counts.index[0] if len(counts) == 1 else ", ".join(f"{n} {status}" for status, n in counts.items())
