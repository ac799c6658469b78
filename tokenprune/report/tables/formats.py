"""Writes a table of strings as text, Markdown and LaTeX, with the paragraphs below it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from tokenprune.utils import console

_LATEX = {"±": r"$\pm$", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "—": "--", "−": "$-$", "≠": r"$\neq$"}


class Shown(Protocol):
    """Is a table that can be printed.

    Attributes:
        data: The raw table.
        shown: The same as strings, with titles for people.
        blocks: Paragraphs of text below it.
    """

    data: pd.DataFrame
    shown: pd.DataFrame
    blocks: Sequence[str]


@dataclass(frozen=True)
class Lines:
    """Holds a small table for `publish`; see `Shown`."""

    data: pd.DataFrame
    shown: pd.DataFrame
    blocks: tuple[str, ...] = ()


def publish(table: Shown, folder: Path, stem: str, title: str, latex: bool = True) -> list[str]:
    """Print a table and write it as stem.csv (raw), stem.md and, with `latex`, stem.tex; return the names of these files."""
    console.say(to_text(table))  # first: a table that cannot be written has been shown
    table.data.to_csv(folder / f"{stem}.csv", index=False)
    texts = {f"{stem}.md": to_markdown(table, title), **({f"{stem}.tex": to_latex(table, title)} if latex else {})}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [f"{stem}.csv", *texts]


def to_text(table: Shown) -> str:
    """Return the table for a terminal, aligned, with the text below it."""
    return "\n\n".join([_aligned(table.shown), *table.blocks])


def to_markdown(table: Shown, title: str) -> str:
    """Return the table as Markdown."""
    shown = table.shown
    lines = ["| " + " | ".join(cells) + " |" for cells in [list(shown.columns), *shown.values.tolist()]]
    lines.insert(1, "|" + "---|" * len(shown.columns))
    return f"# {title}\n\n" + "\n\n".join(["\n".join(lines), *table.blocks]) + "\n"


def to_latex(table: Shown, title: str) -> str:
    """Return the table as LaTeX, with the text below it as comments. It needs the booktabs package."""
    rows = [" & ".join(map(_latex, cells)) + r" \\" for cells in table.shown.values.tolist()]
    head = " & ".join(map(_latex, table.shown.columns)) + r" \\"
    columns = "ll" + "r" * (len(table.shown.columns) - 2)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    comments = [f"% {_latex(line)}" for block in table.blocks for line in block.splitlines() if line]
    return "\n".join([f"% {title}; needs \\usepackage{{booktabs}}", *body, *comments]) + "\n"


def numbers(data: pd.DataFrame, name: str, style: str) -> list[str]:
    """Return a column as strings: a dash for a missing number, words unchanged ("diverged" in a paper's table)."""
    if name not in data:
        return ["—"] * len(data)
    return [value if isinstance(value, str) else "—" if pd.isna(value) else style.format(value) for value in data[name]]


def _aligned(shown: pd.DataFrame) -> str:
    cells = [list(shown.columns), *shown.values.tolist()]
    widths = [max(len(row[i]) for row in cells) for i in range(len(shown.columns))]
    lines = [" | ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)
