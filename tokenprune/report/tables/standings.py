"""Sets measured rows of many experiments side by side where they may be compared, at the share of the dense model's GMAC that they cost."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokenprune.measure.paired import SURE
from tokenprune.report.figures.shared.pareto import on_front
from tokenprune.report.tables.scores import SCORES
from tokenprune.report.tables.seeds import SAME, collapse, newest, paired
from tokenprune.report.tables.table import NOTES

FIELD = ("task", "data", "scale", "size", "device", "threads", "execution")  # rows that differ in one of these are never on one board
STEP = 5  # percent of the dense model's GMAC from one budget to the next
_REFERENCE, _STARTS = "Dense", "starts from"
_COSTS = ("gmac_total", "speedup_encoder")
_Result = tuple[str, float]  # key and score of a row: the same run with the same outcome


@dataclass(frozen=True)
class Left:
    """Holds rows of one experiment that stand on no board: how many, and why."""

    experiment: str
    rows: int
    why: str


@dataclass(frozen=True)
class Board:
    """Holds lines that may be compared with one another.

    Attributes:
        facts: What all of its rows have in common, by the names of `FIELD`.
        score: Column of the score that ranks.
        dense: The line of the dense model.
        lines: The other lines, one a configuration, from the largest budget to the smallest and from the best to the worst. Beside the
            columns of `seeds.collapse` they have `share` (GMAC over the dense model's), `budget` (the share in percent, to the nearest
            `STEP`), `change` (score minus the dense one's, paired by seed), `rivals` (the best line of the budget is not surely better),
            `front` (no line is both cheaper and better), and `experiments` (names).
        rows: Number of rows behind the lines.
        dirty: Number of them that were measured with code that was not committed.
        commits: Commits that made them.
        images: Number of validation images, where the standard error of top-1 tells it; else 0.
        start: What all of them start from, as their notes say; "" if they do not say, or differ.
        experiments: Names of the experiments.
    """

    facts: Mapping[str, Any]
    score: str
    dense: Mapping[str, Any]
    lines: pd.DataFrame
    rows: int
    dirty: int
    commits: tuple[str, ...]
    images: int
    start: str
    experiments: tuple[str, ...]


def standings(tables: Sequence[tuple[str, pd.DataFrame]]) -> tuple[list[Board], list[Left]]:
    """Return the boards, and the rows that stand on none.

    Rows of one experiment that agree in `FIELD` are a table; if it has several dense models, those of each start are. Two tables share a
    board if they share a row: one with the same key and the same score. So their rows have the same start, images and recipe, and were
    measured on the same machine. A board needs one dense model that its rows are held against.

    Args:
        tables: Names of experiments with their rows, in the form of `tables.rows_frame`.
    """
    left: list[Left] = []
    usable = [(name, rows) for experiment, data in tables for name, rows in _tables(experiment, data, left)]
    boards = []
    for joined in _joined(usable):
        board = _board(joined)
        if isinstance(board, str):
            left += [Left(name, len(rows), board) for name, rows in joined]
        else:
            boards.append(board)
    return sorted(boards, key=_order), left


def _order(board: Board) -> tuple[Any, ...]:
    return (board.facts["task"], board.facts["data"], board.facts["scale"], -board.rows, board.experiments)


def _tables(experiment: str, data: pd.DataFrame, left: list[Left]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the tables of an experiment; note in `left` what is none."""
    for _, rows in data.groupby(list(FIELD), sort=False, dropna=False) if len(data) else ():
        score = score_of(rows)
        good = rows[(rows["status"] == "ok") & (rows[score].notna() & rows["gmac_total"].notna() if score else False)]
        for status, bad in rows[rows["status"] != "ok"].groupby("status", sort=False):
            left.append(Left(experiment, len(bad), f"no result: {status}"))
        unjudged = int((rows["status"] == "ok").sum()) - len(good)
        if unjudged:
            left.append(Left(experiment, unjudged, "cost or speed alone, without accuracy"))
        for part in _by_start(good):
            if part[_is_reference(part)].duplicated("seed").any():
                left.append(Left(experiment, len(part), "several dense models in one table, such as one for each size of image"))
            else:
                yield experiment, part


def _by_start(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return rows in parts that have one dense model each, where what they start from tells them apart; none of no rows."""
    if not len(rows) or not rows[_is_reference(rows)].duplicated("seed").any():
        return [rows] if len(rows) else []
    return [part for _, part in rows.groupby(rows["notes"].map(_start), sort=False)]


def _start(notes: Any) -> str:
    """Return the note that tells what a row starts from, "" if there is none."""
    return next((note for note in str(notes).split(NOTES) if note.startswith(_STARTS)), "")


def score_of(rows: pd.DataFrame) -> str | None:
    """Return the column of the first score that rows have; None if they have none."""
    return next((name for name, _ in SCORES if name in rows and rows[name].notna().any()), None)


def _is_reference(rows: pd.DataFrame) -> pd.Series:
    return (rows["treatment"] == "none") & (rows["label"] == _REFERENCE)


def _results(rows: pd.DataFrame) -> set[_Result]:
    return set(zip(rows["key"], rows[score_of(rows)].astype(float), strict=True))


def _joined(tables: Sequence[tuple[str, pd.DataFrame]]) -> list[list[tuple[str, pd.DataFrame]]]:
    """Return tables in groups that share rows with the same outcome, also by way of a third table."""
    groups: list[tuple[tuple[Any, ...], set[_Result], list[tuple[str, pd.DataFrame]]]] = []
    for name, rows in tables:
        field, results, members = tuple(rows.iloc[0][list(FIELD)].astype(str)), _results(rows), [(name, rows)]
        apart = []
        for group in groups:
            if group[0] == field and group[1] & results:
                results, members = results | group[1], [*group[2], *members]
            else:
                apart.append(group)
        groups = [*apart, (field, results, members)]
    return [members for _, _, members in groups]


def _board(joined: Sequence[tuple[str, pd.DataFrame]]) -> Board | str:
    """Return the board of tables that share rows, or why there is none."""
    rows = _rows(joined)
    reference, others = rows[_is_reference(rows)], rows[~_is_reference(rows)]
    if not len(reference):
        return "no dense model beside them, and no row in common with a table that has one"
    if reference.duplicated("seed").any():
        return "tables that share rows have different dense models"
    if not len(others):
        return "the dense model alone"
    notes = [{note for note in text.split(NOTES) if note.startswith(_STARTS)} for text in rows["notes"]]
    return Board(
        dict(rows.iloc[0][list(FIELD)]),
        str(score_of(rows)),
        _line(reference),
        _lines(reference, others),
        len(rows),
        int((rows["dirty"].astype(str) == "True").sum()),
        tuple(sorted({str(commit)[:8] for commit in rows["commit"]})),
        _images(reference.iloc[0]),
        next(iter(set.intersection(*notes)), ""),
        tuple(sorted(name for name, _ in joined)),
    )


def _images(row: Mapping[str, Any]) -> int:
    """Return the number of images of a row with top-1, of which `top1_se` is the binomial standard error; 0 if they do not tell it."""
    share, error = row.get("top1", math.nan) / 100, row.get("top1_se", math.nan) / 100
    return round(share * (1 - share) / error**2) if error > 0 else 0


def _rows(joined: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Return the rows of tables, each once, with all their `experiments`."""
    by_seeds = sorted(joined, key=lambda table: (-table[1]["seed"].nunique(), table[0]))  # so that the seeds of a line stay together
    rows = pd.concat([data.assign(experiment=name) for name, data in by_seeds], ignore_index=True)
    result = ["key", str(score_of(rows))]
    where = rows.groupby(result, sort=False)["experiment"].agg(lambda names: tuple(dict.fromkeys(names)))
    rows = rows.drop_duplicates(result).assign(experiments=list(where))  # both keep the order
    own = rows["experiment"] + "|" + rows["configuration"]  # tables from before there were digests number their configurations
    rows = newest(rows.assign(configuration=own))[0]
    shared = rows["configuration"].where(~_is_reference(rows), _REFERENCE)  # the dense model is one, whichever tables it stands in
    return rows.assign(configuration=shared)


def _line(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the rows of one configuration as one line."""
    line = collapse(rows, [*(name for name, _ in SCORES if name in rows), *_COSTS]).iloc[0]
    return {**line, "experiments": tuple(dict.fromkeys(name for names in rows["experiments"] for name in names))}


def _lines(reference: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    score, dense = str(score_of(reference)), reference.set_index("seed")
    lines = []
    for _, rows in others.groupby(SAME, sort=False):
        change = paired(rows.set_index("seed")[score].to_dict(), dense[score].to_dict())
        share = rows["gmac_total"].mean() / reference["gmac_total"].mean()
        added = {"share": share, "budget": STEP * round(100 * share / STEP), "change": math.nan if change is None else change.mean}
        lines.append({**_line(rows), **added})
    found = pd.DataFrame(lines).sort_values(["budget", score], ascending=False, kind="stable").reset_index(drop=True)
    found["front"] = on_front(found, "gmac_total", score)
    found["rivals"] = [_rivals(found[found["budget"] == line["budget"]].iloc[0], line, score) for _, line in found.iterrows()]
    return found


def _rivals(best: Mapping[str, Any], line: Mapping[str, Any], score: str) -> bool:
    """Tell whether the scores of two lines differ by no more than their errors allow."""
    errors = [one.get(f"{score}_se", math.nan) / math.sqrt(max(1, one["n"])) for one in (best, line)]
    return bool(best[score] - line[score] <= SURE * math.hypot(*errors))
