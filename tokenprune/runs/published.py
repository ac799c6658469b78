"""Rules of the command line that are made from selector classes: what a method sets in a schedule, so that `prune` and a run agree.

A selector's class says in `published` which treatment and schedule its paper has. `tokenprune.prune` takes them as they are. A run takes a
schedule from its configuration. Where that is the paper's, the rule `schedule_of_method` sets the options that say how counts are made. The
rule `counts_of_method` sets how many tokens leave, at scale=paper of task=classification, whose images have the 196 positions that papers
count. Shares (`keep_rate`, `rate`) are those of the run. A method without a file in conf/method takes counts and shares of its class, too,
at every scale (`answers_of_method`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenprune.engine.schedule import ANSWERS, Layout
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import build, get, names
from tokenprune.runs.sources import read_data

_COUNT = "remove"
_USUAL = Layout(depth=12, positions=196, prefix=1)  # of DeiT


def published_nodes(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the groups of rules, {group: {combination: values}}, for the methods of FOLDER/method and of registered selectors."""
    how: dict[str, dict[str, Any]] = {}
    many: dict[str, dict[str, Any]] = {}
    answers: dict[str, dict[str, Any]] = {}
    for method, selector, filed in _methods(folder):
        spec = get("selector", selector).published["schedule"]
        schedule = {"name": spec} if isinstance(spec, str) else spec
        options = {name: value for name, value in schedule.items() if name != "name"}
        if not filed and (given := {name: value for name, value in options.items() if name in ANSWERS}):
            answers[f"{method}_{schedule['name']}"] = given
        if laws := {name: value for name, value in options.items() if name not in ANSWERS}:
            how[f"{method}_{schedule['name']}"] = laws
        if _COUNT in options and _fits(schedule):
            many[f"classification_{method}_{schedule['name']}_paper"] = {_COUNT: options[_COUNT]}
    return {"rules/schedule_of_method": how, "rules/counts_of_method": many, "rules/answers_of_method": answers}


def _fits(schedule: Mapping[str, Any]) -> bool:
    """Tell whether a schedule is for 196 positions; DToP's is for the larger grids of segmentation."""
    try:
        return bool(build("schedule", schedule).budgets(_USUAL))
    except InvalidSchedule:
        return False


def _methods(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield (method, selector, whether it has a file) of each preset; one without a file is named as its selector."""
    known = names("selector")
    of_files = {path.stem: _selector(read_data(path)) for path in sorted((folder / "method").glob("*.yaml"))}
    every = {**{name: name for name in known}, **of_files}
    yield from ((method, selector, method in of_files) for method, selector in every.items() if selector in known)


def _selector(preset: Any) -> str | None:
    chosen = preset.get("defaults", []) if isinstance(preset, Mapping) else []
    return next((entry["override /selector"] for entry in chosen if isinstance(entry, Mapping) and "override /selector" in entry), None)
