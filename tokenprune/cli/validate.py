"""Compose and check every row of every experiment at every scale, without data or weights.

    tokenprune validate [EXPERIMENT ...]        `make validate` runs this

Exit status: 0 if all is well, 2 for an unknown experiment, 3 if rows are not valid; each of these is named. As many processes as there are
cores share the work. They are copies of this one, so Hydra and torch are loaded once. 1400 rows take some minutes of CPU.
"""

import gc
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tokenprune.errors import TokenPruneError, status_of
from tokenprune.runs.command_line import explain
from tokenprune.runs.composer import Composer, composer
from tokenprune.runs.config import resolve
from tokenprune.runs.reports import build_reports
from tokenprune.runs.run import Run
from tokenprune.runs.sweep import BAD_ROW, expected, experiments_asked
from tokenprune.runs.validation import validate
from tokenprune.utils import console

SCALES = ("smoke", "demo", "paper")
_PART = 12  # rows that a process takes at a time


class Checked(NamedTuple):
    """Holds the result of some rows.

    Attributes:
        valid: Number of valid rows.
        refused: Number of rows that are refused as their experiment expects.
        wrong: The problems of the other rows.
    """

    valid: int = 0
    refused: int = 0
    wrong: tuple[str, ...] = ()

    def plus(self, other: "Checked") -> "Checked":
        """Return the sum of both."""
        return Checked(*(a + b for a, b in zip(self, other, strict=True)))


def main() -> None:
    """Check the experiments named on the command line, or all; print a line for each, and the rows that are not valid."""
    names = experiments_asked(sys.argv[1:], __doc__)
    wrong = [text for name, found in checked(names) for text in tell(name, found)]
    for text in wrong:
        console.fail(text)
    if wrong:
        sys.exit(BAD_ROW)


def checked(names: Sequence[str]) -> Iterator[tuple[str, Checked]]:
    """Yield (experiment, result of its rows at all scales), in the order of the names."""
    import torch

    torch.set_num_threads(1)  # a process must not be copied while its threads are at work
    with composer() as compose, console.progress((), "validating", 0) as bar:
        compose.compose([])  # reads what every row needs, for all copies of this process
        gc.freeze()
        with multiprocessing.get_context("fork").Pool(os.cpu_count(), _begin, (compose,)) as pool:
            expanded = list(zip(product(names, SCALES), pool.imap(_parts, product(names, SCALES)), strict=True))
            parts = [(name, part) for (name, _), (found, _) in expanded for part in found]
            bar.reset(len(parts))
            results = pool.imap(_check, [part for _, part in parts])
            for name in names:
                found = Checked(wrong=tuple(text for (of, _), (_, wrong) in expanded if of == name for text in wrong))
                for _ in (part for part in parts if part[0] == name):
                    found = found.plus(next(results))
                    bar.update()
                yield name, found
        gc.unfreeze()


def tell(name: str, found: Checked) -> tuple[str, ...]:
    """Print how many rows of an experiment are valid; return the problems of the others."""
    total = found.valid + found.refused + len(found.wrong)
    refused = f", {found.refused} are pairings that it expects to be refused" if found.refused else ""
    console.say(f"{name}: {found.valid} of {total} rows are valid{refused} ({', '.join(SCALES)})")
    return found.wrong


def check(compose: Composer, overrides: Sequence[str]) -> Checked:
    """Compose and validate one row."""
    text = " ".join(overrides)
    try:
        config = resolve(compose.compose(list(overrides)))
    except (HydraException, OmegaConfBaseException, TokenPruneError) as error:
        return Checked(wrong=(f"{text}: {explain(error)}",))
    try:
        if config.with_rows:
            validate(config, files=False)
        else:
            build_reports(config.reports)
    except Exception as error:  # any error that a sweep would turn into a status
        return Checked(refused=1) if _expects(config, error) else Checked(wrong=(f"{text}: {explain(error)}",))
    return Checked(valid=1)


def _expects(config: Run, error: Exception) -> bool:
    try:
        return status_of(error) in expected(config)
    except TokenPruneError:  # reports that do not exist expect nothing
        return False


def _parts(asked: tuple[str, str]) -> tuple[list[list[list[str]]], tuple[str, ...]]:
    """Return the rows of an experiment at a scale in parts, and why they cannot be told; rows that are composed alike stand together."""
    name, scale = asked
    compose = _composer[0]
    try:
        rows = sorted(([*row, f"scale={scale}"] for row in compose.rows(name, scale)), key=compose.choices)
    except (HydraException, OmegaConfBaseException, TokenPruneError) as error:
        return [], (f"+experiment={name} scale={scale}: {explain(error)}",)
    return [rows[start : start + _PART] for start in range(0, len(rows), _PART)], ()


_composer: list[Composer] = []  # holds the composer of this copy of the process


def _begin(compose: Composer) -> None:
    gc.set_threshold(50_000)  # configurations are many small objects, few of them garbage
    _composer[:] = [compose]


def _check(part: list[list[str]]) -> Checked:
    found = Checked()
    for row in part:
        found = found.plus(check(_composer[0], row))
    return found


if __name__ == "__main__":
    main()
