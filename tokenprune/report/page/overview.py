"""Makes the opening of a report: the experiments, the machines, the rows that are not ok, and the files that cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tokenprune.report.page.gather import Experiment, Found
from tokenprune.report.page.grids import Grid
from tokenprune.runs.experiment_files import experiment as described

_MACHINE = ("device", "threads", "python", "torch", "timm", "detectron2", "tokenprune", "commit")


@dataclass(frozen=True)
class Overview:
    """Holds a sentence and tables; `bad` and `unreadable` are None if there are none."""

    sentence: str
    experiments: Grid
    machines: Grid
    bad: Grid | None
    unreadable: Grid | None


def overview(found: Found) -> Overview:
    """Return the overview of a folder's rows."""
    data = pd.concat([e.data.assign(experiment=e.name) for e in found.experiments if len(e.data)] or [_nothing()], ignore_index=True)
    bad = data[data["status"] != "ok"]
    rows = [{"experiment": r["experiment"], "row": _called(r), "status": r["status"], "why": r["reason"]} for _, r in bad.iterrows()]
    unreadable = [{"what": where, "why": why} for where, why in found.unreadable]
    return Overview(
        _sentence(found, data),
        Grid.of(pd.DataFrame([_line(e) for e in found.experiments])),
        Grid.of(_machines(data)),
        Grid.of(pd.DataFrame(rows)) if rows else None,
        Grid.of(pd.DataFrame(unreadable)) if unreadable else None,
    )


def _nothing() -> pd.DataFrame:
    return pd.DataFrame(columns=["experiment", "key", "status", "reason", "label", "treatment", "seed", "dirty", *_MACHINE])


def _sentence(found: Found, data: pd.DataFrame) -> str:
    counts = data.drop_duplicates(["key", "device"])["status"].value_counts()
    statuses = ", ".join(f"{number} {status}" for status, number in counts.items()) or "none"
    shared = f" ({len(data)} with those that several experiments share)" if len(data) > counts.sum() else ""
    starts = f" {found.starts} more are dense models that rows start from." if found.starts else ""
    unread = f" {len(found.unreadable)} could not be read and are left out." if found.unreadable else ""
    experiments = f"{len(found.experiments)} experiment" + "s" * (len(found.experiments) != 1)
    return f"{experiments} with {counts.sum()} rows{shared}: {statuses}.{starts}{unread}"


def _line(experiment: Experiment) -> dict[str, str]:
    data, about = experiment.data, described(experiment.name)
    line = {"experiment": experiment.name, "what": about.gist if about else ""}
    if not len(data):
        return {**line, "task, data, scale": "no rows", "rows": "0", "status": "—", "seeds": "—"}
    kinds = dict.fromkeys(f"{r['task']}, {r['data']}, {r['scale']}" for _, r in data.iterrows())
    statuses = ", ".join(f"{number} {status}" for status, number in data["status"].value_counts().items())
    seeds = ", ".join(str(seed) for seed in sorted(data["seed"].unique()))
    return {**line, "task, data, scale": "; ".join(kinds), "rows": str(len(data)), "status": statuses, "seeds": seeds}


def _machines(data: pd.DataFrame) -> pd.DataFrame:
    facts = [*(["folder"] if "folder" in data else []), *_MACHINE]
    words = data[facts].astype(object).where(data[facts].notna(), "—").astype(str)
    words["threads"] = words["threads"].str.removesuffix(".0")
    words["commit"] = words["commit"].str[:10] + data["dirty"].astype(str).eq("True").map({True: " + changes", False: ""})
    groups = words.assign(experiment=data["experiment"]).groupby(facts, sort=False)
    lines = [{**dict(zip(facts, key, strict=True)), "rows": str(len(g)), "experiments": _several(g["experiment"])} for key, g in groups]
    return pd.DataFrame(lines)


def _several(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _called(row: pd.Series) -> str:
    return f"{row['label']} {row['treatment']}, seed {row['seed']}"
