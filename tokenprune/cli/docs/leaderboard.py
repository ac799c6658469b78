"""Makes docs/leaderboard.md: every row of experiments/*/measured, ranked at equal cost among the rows that it may be compared with."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenprune.cli.docs.links import cell
from tokenprune.report.page.gather import gather
from tokenprune.report.tables.scores import TITLES
from tokenprune.report.tables.standings import STEP, SURE, Board, Left, standings

_HEAD = f"""# Leaderboard

Made by `make docs` from all rows in [experiments/](../experiments/)`*/measured`: measure again there, and make it again.

A *board* holds rows that may be compared. Two tables of rows share a board if they share a row, with the same key and the same score: so
they have the same start, images, recipe and machine. Everything else stands on a board of its own, and rows that cannot be held against a
dense model stand [at the end](#left-out). Do not compare the numbers of two boards.

- *Budget*: the encoder's GMAC over the dense model's, to the nearest {STEP} %; *share* is the exact number. Within a budget the best score
  stands first.
- **Bold**: the best of its budget. *≈*: its score is within {SURE} standard errors of the best one's. Both see the same images, so a paired
  test tells more apart: [which method should I use?](which_method.md) has it for models that are not trained.
- ★: no line of the board is both cheaper and better.
- *±*: the standard deviation over seeds; with one seed the standard error over images. *minus dense*: paired by seed.
- *speed-up*: of the encoder over the dense one, in turn with it at batch 1, on the machine of the board. GMAC and speed are not the same.

The models and data are small, and most were trained for minutes. A place says how methods stand here, not how they stand on ImageNet or
COCO."""


def page(root: Path) -> str:
    """Return the page for a checkout at `root`."""
    folder = root / "experiments"
    found = gather(folder).experiments if any(folder.glob("*/measured")) else []
    boards, left = standings([(e.name, e.data) for e in found])
    if not boards:
        return f"{_HEAD}\n\nNo row is committed yet that stands beside a dense model.\n\n{_left_out(left)}\n"
    titles = [f"Board {number}: {b.facts['task']} on {b.facts['data']}" for number, b in enumerate(boards, 1)]
    sections = [_section(title, board) for title, board in zip(titles, boards, strict=True)]
    return "\n\n".join([_HEAD, _overview(titles, boards), *sections, _left_out(left)]) + "\n"


def _overview(titles: Sequence[str], boards: Sequence[Board]) -> str:
    lines = ["| board | machine | images | dense | lines | lines that none beats in both cost and score (★) |", "|---|---|---|---|---|---|"]
    for title, b in zip(titles, boards, strict=True):
        anchor = title.lower().replace(":", "").replace(" ", "-")
        front = [f"{_named(line)} ({line[b.score]:.1f} at {100 * line['share']:.0f} %)" for _, line in b.lines[b.lines["front"]].iterrows()]
        cells = [f"[{title}](#{anchor})", _machine(b), str(b.images or "—"), _valued(b.dense, b.score), str(len(b.lines)), "; ".join(front)]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines)


def _named(line: Mapping[str, Any]) -> str:
    parts = [line["label"], "" if line["treatment"] == "none" else line["treatment"].replace("_", " ")]
    return " ".join(filter(None, [*parts, "" if math.isnan(line["keep_rate"]) else f"{line['keep_rate']:g}"]))


def _machine(board: Board) -> str:
    threads = board.facts["threads"]
    return board.facts["device"] + ("" if math.isnan(threads) else f", {threads:g} thread{'' if threads == 1 else 's'}")


def _valued(line: Mapping[str, Any], score: str) -> str:
    error = line.get(f"{score}_se", math.nan)
    return f"{line[score]:.1f}" + ("" if math.isnan(error) else f" ± {error:.1f}")


def _section(title: str, board: Board) -> str:
    scores = [name for name in TITLES if name in board.dense and not math.isnan(board.dense[name])]
    titles = [TITLES[name] for name in scores]
    head = ["budget", "method", "treatment", "keep_rate", *titles, "minus dense", "share", "speed-up", "seeds"]
    head += ["from"] * (len(board.experiments) > 1)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), f"| {' | '.join(_cells(board.dense, scores)[: len(head)])} |"]
    last = None
    for _, line in board.lines.iterrows():
        first = line["budget"] != last
        last = line["budget"]
        lines.append(f"| {' | '.join(_cells(line, scores, first)[: len(head)])} |")
    return "\n\n".join([f"## {title}", _facts(board), "\n".join(lines)])


def _cells(line: Mapping[str, Any], scores: Sequence[str], first: bool = False) -> list[str]:
    """Return the cells of a line; `first` for the best one of its budget. The dense line has no budget."""
    dense = "budget" not in line
    name = f"**{line['label']}**" if first else line["label"]
    marks = "" if dense else (" ★" if line["front"] else "") + ("" if first or not line["rivals"] else " ≈")
    return [
        "dense" if dense else f"{line['budget']} %",
        cell(name + marks),
        line["treatment"],
        _number(line["keep_rate"], "{:g}"),
        *(_valued(line, score) for score in scores),
        "—" if dense else _number(line["change"], "{:+.1f}"),
        "100.0 %" if dense else f"{100 * line['share']:.1f} %",
        _number(line["speedup_encoder"], "{:.2f}"),
        str(line["seeds"]),
        ", ".join(map(_linked, line["experiments"])),
    ]


def _number(value: float, style: str) -> str:
    return "—" if math.isnan(value) else style.format(value)


def _linked(name: str) -> str:
    """Return a link to what an experiment measured, which is its page on the site."""
    return f"[{name}](../experiments/{name}/)"


def _facts(board: Board) -> str:
    facts = board.facts
    size = f", model size {facts['size']}" if facts["size"] else ""
    judged = f" {board.images} validation images." if board.images else ""
    measured = "1 row was" if board.dirty == 1 else f"{board.dirty} rows were"
    dirty = f" {measured} measured with code that was not committed." if board.dirty else ""
    start = f" Every row {board.start}." if board.start else ""
    return (
        f"Scale {facts['scale']}{size}; {_machine(board)}. {board.rows} rows of {', '.join(map(_linked, board.experiments))}, of commit"
        f" {', '.join(board.commits)}.{judged}{start}{dirty}"
    )


def _left_out(left: Sequence[Left]) -> str:
    counts: Counter[tuple[str, str]] = Counter()
    for one in left:
        counts[one.experiment, one.why] += one.rows
    lines = [f"| {_linked(name)} | {number} | {cell(why)} |" for (name, why), number in counts.items()]
    table = ["| experiment | rows | why |", "|---|---|---|", *lines] if lines else ["None."]
    return "\n\n".join(["## Left out", "Rows that stand on no board, and why.", "\n".join(table)])
