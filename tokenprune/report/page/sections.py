"""Collects the parts of a report on each experiment: tables, the plot with its front, seeds, pictures. It sets no format."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import pandas as pd

from tokenprune.report.figures.shared import pareto
from tokenprune.report.figures.shared.plots import score_of, speed_accuracy
from tokenprune.report.page.gather import Experiment, Stored
from tokenprune.report.page.merge import short_names
from tokenprune.report.tables.expected import of_paper
from tokenprune.report.tables.scores import SCORES
from tokenprune.report.tables.seeds import SAME
from tokenprune.report.tables.table import Table, of_frame
from tokenprune.runs.experiment_files import Described
from tokenprune.runs.experiment_files import experiment as described
from tokenprune.utils.paths import expected_of

if TYPE_CHECKING:
    from tokenprune.report.page.grids import Grid

APART = ("task", "data", "scale", "device", "execution")  # rows that differ in one of these share no table
PLOT = "speed_accuracy"


@dataclass(frozen=True)
class Image:
    """Holds a PNG file, the caption below it, and its name in the folder of the report ("" for that of the file)."""

    path: Path
    caption: str
    name: str = ""


@dataclass(frozen=True)
class Part:
    """Holds the rows of an experiment that may be compared.

    `stem` names its files. `heading` says how it differs from the other parts, "" for the only part.
    """

    stem: str
    heading: str
    of: str
    table: Table
    seeds: "Grid | None"
    plot: Image | None
    front: list[str]


@dataclass(frozen=True)
class Section:
    """Holds one experiment; `about` is None for names that conf/experiment does not have. `stored` and `folders`: see `Experiment`."""

    name: str
    about: Described | None
    parts: list[Part]
    gallery: list[Image]
    texts: list[str]
    stored: Mapping[tuple[str, str], Stored] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()


def section(experiment: Experiment, folder: Path) -> Section:
    """Return the section of an experiment. Its plots are drawn into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    gallery = list(_gallery(experiment.files(".png")))
    texts = [path.read_text(encoding="utf-8") for path in experiment.files(".md")]
    parts = list(_parts(experiment, folder))
    return Section(experiment.name, described(experiment.name), parts, gallery, texts, experiment.stored, experiment.folders)


def apart(data: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the groups of rows that may share a table, each with its differences from the others ("" if all rows may share one)."""
    if not len(data):
        return []
    differ = [name for name in APART if data[name].nunique(dropna=False) > 1]
    if not differ:
        return [("", data)]
    groups = data.groupby(differ, sort=False, dropna=False)
    return [(", ".join(f"{name}: {value}" for name, value in zip(differ, key, strict=True)), rows) for key, rows in groups]


def _parts(experiment: Experiment, folder: Path) -> Iterator[Part]:
    found = apart(experiment.data)
    for number, (heading, rows) in enumerate(found, 1):
        stem = "table" if len(found) == 1 else f"table_{number}"
        table = table_of(experiment.name, rows)
        yield Part(stem, heading, common(rows), table, _seeds(table), *_plot(table, folder, stem, experiment.name, heading))


def table_of(experiment: str, rows: pd.DataFrame) -> Table:
    """Return the table of rows that may share one, beside the paper's current numbers, not those of the time when the rows were written."""
    expected = expected_of(experiment)
    fresh = rows.drop(columns=[name for name in rows if of_paper(name)]) if expected else rows
    return of_frame(fresh.reset_index(drop=True), expected)


def common(rows: pd.DataFrame) -> str:
    """Return in words the facts that rows of one table have in common."""
    first, seeds = rows.iloc[0], sorted(rows["seed"].unique())
    run = f"{first['task']} on {first['data']}, scale {first['scale']}"
    return f"{run}; {first['device']}; execution {first['execution']}; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _plot(table: Table, folder: Path, stem: str, name: str, heading: str) -> tuple[Image | None, list[str]]:
    lines = table.measured_lines
    score = score_of(lines)
    if score is None or not pareto.costs_of(lines):
        return None, []
    lines = lines[lines[score].notna()]
    if len(lines) < 2:  # a single point can be compared with nothing
        return None, []
    bars = "bootstrap standard error over images" if table.seeds is None else "standard deviation over seeds"
    path = folder / f"{PLOT}{stem.removeprefix('table')}.png"
    speed_accuracy(lines, path, f"{name}{', ' * bool(heading)}{heading}", score, front=True)
    caption = f"Speed against accuracy; bars: {bars}; grey band: the Pareto front; dashed: the dense model."
    return Image(path, caption), pareto.in_words(lines, score, [called(line) for _, line in lines.iterrows()])


def called(line: pd.Series) -> str:
    """Return a line's name for a sentence, such as "EViT preserve 0.7"."""
    parts = [line["label"], "" if line["treatment"] == "none" else line["treatment"].replace("_", " ")]
    rate = line["keep_rate"]
    return " ".join([part for part in parts if part] + ([] if pd.isna(rate) else [f"{rate:g}"]))


def _seeds(table: Table) -> "Grid | None":
    """Return the values of each seed, their mean and standard deviation, of rows that were run with several seeds."""
    from tokenprune.report.page.grids import Grid

    names = [(name, title) for name, title in SCORES if name in table.data and table.data[name].notna().any()]
    if table.seeds is None or not names:
        return None
    lines = []
    for _, group in table.data.groupby(SAME, sort=False):
        good = group[group["status"] == "ok"]
        first = group.iloc[0]
        line = {"Method": first["label"], "Treatment": first["treatment"], "keep_rate": _rate(first["keep_rate"])}
        line["seeds"] = ", ".join(map(str, good["seed"])) or "none"
        for name, title in names:
            line |= _spread(title, [float(value) for value in good[name].dropna()])
        lines.append(line)
    return Grid.of(pd.DataFrame(lines))


def _rate(rate: float | None) -> str:
    return "—" if pd.isna(rate) else f"{rate:g}"


def _spread(title: str, values: Sequence[float]) -> dict[str, str]:
    each = ", ".join(f"{value:.1f}" for value in values) or "—"
    mean = "—" if not values else f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
    return {f"{title} of each seed": each, f"{title}, mean ± sd": mean}


def _gallery(files: Sequence[Path]) -> Iterator[Image]:
    """Yield pictures; those of one name in several folders get the name of their folder."""
    for path in files:
        same = [other for other in files if other.name == path.name]
        origin = short_names([other.parent for other in same])[same.index(path)] if len(same) > 1 else ""
        name = f"{path.stem}_{origin.replace('/', '_')}{path.suffix}" if origin else ""
        yield Image(path, _caption(path.stem) + f" ({origin})" * bool(origin), name)


def _caption(stem: str) -> str:
    from tokenprune.registry import facts, names

    return facts("report", stem)["summary"] if stem in names("report") else stem.replace("_", " ")


def moved(image: Image, folder: Path) -> Image:
    """Return the image as a file of `folder`, copied there if it lies elsewhere."""
    path = folder / (image.name or image.path.name)
    if image.path != path:
        path.write_bytes(image.path.read_bytes())
    return replace(image, path=path)
