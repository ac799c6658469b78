"""Lists plugins, methods and experiments with their declared facts: `tokenprune list`, or one kind: `tokenprune list selectors`."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tokenprune.errors import hint
from tokenprune.registry import facts, names
from tokenprune.runs.presets import choices, files, read
from tokenprune.utils import console

_KINDS = ("selector", "treatment", "schedule", "fusion", "loss", "data", "task", "layout", "report")
_PLURAL = {"loss": "losses", "data": "data sets"}
_LATER = ("summary", "paper", "module")
_HIDDEN = ("name", "module")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the kinds that the arguments name, or everything; return 0. A word that names no kind ends the process with status 2."""
    parts = sections()
    parser = argparse.ArgumentParser(console.program("list"), description="Print plugins, methods and experiments with their facts.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"any of {', '.join(parts)} (default: all)")
    asked = parser.parse_args(arguments).kinds
    chosen = [{_singular(part): part for part in parts}.get(word, word) for word in asked]
    for word in chosen:
        if word not in parts:
            parser.error(f"there is no kind {word!r}.{hint(word, parts)} Allowed: {', '.join(parts)}")
    console.say("\n\n".join(parts[word]() for word in dict.fromkeys(chosen or parts)))
    return 0


def sections() -> dict[str, Callable[[], str]]:
    """Return what makes the text of each kind, by the word that names the kind on the command line."""
    kinds = {_title(kind).split()[0]: partial(plugins, kind) for kind in _KINDS}
    return {**kinds, "methods": methods, "experiments": experiments}


def _singular(part: str) -> str:
    return {"losses": "loss"}.get(part, part.removesuffix("s"))


def plugins(kind: str) -> str:
    """Return the plugins of a kind with the facts that their classes declare, by which legality is decided."""
    rows = [facts(kind, name) for name in names(kind)]
    keys = list(dict.fromkeys(k for row in rows for k in row if k not in _HIDDEN))
    keys.sort(key=lambda k: _LATER.index(k) if k in _LATER else -1)  # prose comes last, or the columns would not line up
    return aligned(_title(kind), ["name", *keys], [[row["name"], *(_word(row.get(k, "")) for k in keys)] for row in rows])


def methods() -> str:
    """Return the presets of conf/method with the three axes that they choose."""
    axes = ("selector", "treatment", "schedule")
    rows = [[path.stem, *(choices(read(path)).get(axis, "") for axis in axes)] for path in files("method")]
    return aligned("methods (method=NAME)", ["name", *axes], rows)


def experiments() -> str:
    """Return the experiments of conf/experiment with the opening comments of their files: command, purpose, time, numbers to expect."""
    parts = []
    for path in files("experiment"):
        comments = [
            line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#") and "@package" not in line
        ]
        parts.append("\n".join([f"  {path.stem}", *(f"      {line}" for line in comments if line)]))
    return "\n".join(["experiments (+experiment=NAME)", *parts])


def aligned(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns of text, each as wide as its widest cell."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([title, *lines])


def _title(kind: str) -> str:
    return _PLURAL.get(kind, f"{kind}s")


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    return " ".join(str(value).split()) or "-"


if __name__ == "__main__":
    raise SystemExit(main())
