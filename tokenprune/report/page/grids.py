"""Makes tables for a page of limited width: columns with the same value in every line become a sentence."""

from dataclasses import dataclass

import pandas as pd

_SAID = ("Treatment", "setting", "CLS", "size", "keep_rate", "seed", "seeds", "status")  # written once if all are the same
_WORDS = (
    "Method", "Treatment", "setting", "CLS", "size", "status", "experiment", "row", "why", "what", "task, data, scale", "device",
    "commit", "experiments",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Holds a table as text.

    Args:
        head: Titles of the columns.
        kinds: Kind of each column: `word`, `number` or `paper` (a number of a paper).
        lines: Cells, one tuple a line.
        same: Facts that hold for every line and have no column; "" for none.
    """

    head: tuple[str, ...]
    kinds: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    same: str = ""

    @classmethod
    def of(cls, shown: pd.DataFrame) -> "Grid":
        """Return a grid of a table of text, such as `Table.shown`. Facts that are the same in all of several lines move to `same`."""
        said = {name: shown[name].iloc[0] for name in _SAID if len(shown) > 1 and name in shown and shown[name].nunique() == 1}
        left = shown.drop(columns=list(said))
        same = ", ".join(f"{name} {value}" for name, value in said.items() if value not in ("—", ""))
        kinds = tuple("paper" if name.startswith("paper ") else "word" if name in _WORDS else "number" for name in left.columns)
        return cls(tuple(left.columns), kinds, tuple(tuple(map(str, line)) for line in left.values.tolist()), same)

    @property
    def markdown(self) -> str:
        """Return the table as Markdown, with the facts of every line below it."""
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in [self.head, *self.lines]]
        lines.insert(1, "|" + "---|" * len(self.head))
        return "\n".join(lines) + (f"\n\nIn every line: {self.same}." if self.same else "")
