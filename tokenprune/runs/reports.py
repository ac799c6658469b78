"""What a report is: a plugin of kind `report` that turns the rows of a sweep into files. The others run on when one of them fails.

    @register("report", "mine")
    @dataclass(frozen=True)
    class Mine:
        '''One line for the list.'''

        option: int = 3

        def __call__(self, sweep: Sweep) -> list[str]:
            ...  # write files into sweep.folder, say what a terminal should show
            return ["mine.png"]

A configuration chooses them: `reports: {table: {}, mine: {option: 5}}`; null instead of options leaves one out.
"""

import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import build
from tokenprune.utils import console
from tokenprune.utils.files import saving


@dataclass(frozen=True)
class Sweep:
    """What a report gets.

    Args:
        name: of the experiment, which finds the paper's numbers (`paths.expected_of`).
        rows: result rows of any status, in the order of the table.
        folder: exists; where the report's files go.
        results_dir: holds rows/<key>/ with the weights of each row (`results.row_folder`).
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    folder: Path
    results_dir: Path

    @property
    def good(self) -> list[Mapping[str, Any]]:
        """Return the rows that came to a result."""
        return [row for row in self.rows if row["status"] == "ok"]


class Report(Protocol):
    """A report with its options set."""

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write files into `sweep.folder` and return their names; none where the rows have nothing to report."""
        ...


def build_reports(reports: Mapping[str, Any]) -> dict[str, Report]:
    """Return the reports that a configuration chooses, in its order.

    Args:
        reports: name -> options; None leaves a report out.

    Raises:
        InvalidConfig: every unknown name and option, all at once.
    """
    built, problems = {}, []
    for name, options in reports.items():
        try:
            if options is not None and not isinstance(options, Mapping):
                raise InvalidConfig(f"reports.{name} is {options!r}; allowed: its options, e.g. {{}}, or null for no such report")
            if options is not None:
                built[name] = build("report", {**options, "name": name})
        except TokenPruneError as error:
            problems.append(str(error))
    if problems:
        raise InvalidConfig(problems)
    return built


def make_reports(reports: Mapping[str, Any], sweep: Sweep) -> list[str]:
    """Make the chosen reports, say which files they wrote, and return the names of those that failed, with one error line each."""
    with saving(sweep.folder):
        sweep.folder.mkdir(parents=True, exist_ok=True)
    wrote, failed = [], []
    for name, report in build_reports(reports).items():
        trace = sweep.folder / f"{name}.error.txt"
        with suppress(OSError):
            trace.unlink(missing_ok=True)
        try:
            wrote += report(sweep)
        except Exception as error:  # a report that fails must not cost the others
            text = traceback.format_exc()
            with saving(trace):
                trace.write_text(text, encoding="utf-8", errors="backslashreplace")
            kind = "" if isinstance(error, TokenPruneError) else f"{type(error).__name__}: "
            console.fail(" ".join(f"report {name!r}: {kind}{error} (traceback: {trace})".split()))
            failed.append(name)
    if wrote:
        console.say(f"wrote {', '.join(wrote)} in {sweep.folder}")
    return failed
