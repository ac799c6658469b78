"""Write one report of everything that was run, as one HTML file that needs no network, and its parts as files.

    tokenprune report results                       speed against accuracy, tables that sort and filter, two rows compared
    tokenprune report results other/results         one page of several machines, whose devices stay apart
    tokenprune report results --experiment table2_preserve
    tokenprune report results --static              the page without a script, as it is printed, or without the extra tokenprune[page]

Exit status: 0 if all is well, 2 if there is nothing to report.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenprune.errors import MissingDependency, TokenPruneError
from tokenprune.utils import console
from tokenprune.utils.paths import home_path

_DEFAULT = Path("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report that the command line asks for; return the exit status, which is 2 if there is nothing to report."""
    given = _parser().parse_args(arguments)
    roots = given.results
    out = given.out or (roots[0] if len(roots) == 1 and (roots[0] / "rows").is_dir() else _DEFAULT) / "report"
    from tokenprune.report.page.merge import gather_all, short_names
    from tokenprune.report.page.write import write

    try:
        found = gather_all(roots, given.experiment, without=out, one_machine=given.one_machine)
        wrote = write(found, out, f"Token pruning: {', '.join(short_names(roots))}", interactive=not given.static and _interactive())
    except TokenPruneError as error:
        console.fail(str(error))
        return 2
    for where, why in found.unreadable:
        console.warn(f"left out: {where}: {why}")
    console.say(f"wrote {wrote[0]} and {len(wrote) - 1} parts of it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=console.program("report"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folders = "a results folder, or a folder of measured tables such as experiments/; several make one page"
    parser.add_argument("results", type=home_path, nargs="+", help=folders)
    parser.add_argument(
        "--out", type=home_path, help="where the report goes (default: report/ in the only results folder, else results/report)"
    )
    parser.add_argument("--experiment", nargs="+", default=[], metavar="NAME", help="only these experiments (default: all)")
    parser.add_argument("--static", action="store_true", help="write the page without its script")
    parser.add_argument("--one-machine", action="store_true", help="devices of one name in several folders are one device")
    return parser


def _interactive() -> bool:
    """Tell whether the library of the interactive part is installed; where it is not, say so."""
    from tokenprune.report.explorer import available

    try:
        available()
    except MissingDependency as error:
        console.warn(str(error))
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
