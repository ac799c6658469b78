"""Write the generated pages of docs/ and the zoo's printed numbers, or say which are stale: `python -m tokenprune.docs [--check]`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenprune.cli.docs import choice, claims, experiments, leaderboard, methods, zoo
from tokenprune.utils import console
from tokenprune.utils.paths import PACKAGE

PAGES: dict[str, Callable[[Path], str]] = {
    "experiments/released_svit/expected.csv": lambda root: zoo.expected("released_svit", "detection"),
    "experiments/released_classification/expected.csv": lambda root: zoo.expected("released_classification", "classification"),
    "docs/methods.md": methods.page,
    "docs/experiments.md": experiments.page,
    "docs/zoo.md": zoo.page,
    "docs/which_method.md": choice.page,
    "docs/leaderboard.md": leaderboard.page,
    "docs/claims.md": claims.page,
}


def stale(root: Path) -> dict[str, str]:
    """Return the made files of a checkout that differ from their fresh text, with that text."""
    return dict(found for name in PAGES if (found := _if_stale(root, name)))


def _if_stale(root: Path, name: str) -> tuple[str, str] | None:
    path, text = root / name, PAGES[name](root)
    return None if path.is_file() and path.read_text(encoding="utf-8") == text else (name, text)


def main(arguments: Sequence[str] | None = None, root: Path = PACKAGE.parent) -> int:
    """Write the stale pages under root/docs, or only name them; return the exit status: 1 for stale pages, 2 if there is no docs/."""
    parser = argparse.ArgumentParser(prog=console.program("docs"), description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    given = parser.parse_args(arguments)
    if not (root / "docs").is_dir():
        console.fail(f"docs: there is no folder {root / 'docs'}; run this in a checkout, an installed package has none")
        return 2
    if given.check:
        pages = stale(root)
        for name in pages:
            console.fail(f"{name} is stale; run: make docs")
        return int(bool(pages))
    for name in PAGES:  # one after the other, because the pages link to the numbers that are made before them
        if found := _if_stale(root, name):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(found[1], encoding="utf-8")
            console.say(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
