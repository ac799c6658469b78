"""Write one report of everything that was run: `python -m tokenprune.report RESULTS [--out DIR] [--experiment NAME ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenprune.errors import TokenPruneError
from tokenprune.utils import console
from tokenprune.utils.paths import home_path

_DEFAULT = Path("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report that the command line asks for; return the exit status, which is 2 if there is nothing to report."""
    parser = argparse.ArgumentParser(prog=console.program("report"), description=__doc__)
    parser.add_argument("results", type=home_path, help="a results folder, or a folder of measured tables such as experiments/")
    parser.add_argument("--out", type=home_path, help="where the report goes (default: report/ in the results folder, else results/report)")
    parser.add_argument("--experiment", nargs="+", default=[], metavar="NAME", help="only these experiments (default: all)")
    given = parser.parse_args(arguments)
    root = given.results
    out = given.out or (root if (root / "rows").is_dir() else _DEFAULT) / "report"
    from tokenprune.report.page.gather import gather
    from tokenprune.report.page.write import write

    try:
        found = gather(root, given.experiment, without=out)
        wrote = write(found, out, f"Token pruning: {root.resolve().name}")
    except TokenPruneError as error:
        console.fail(str(error))
        return 2
    for where, why in found.unreadable:
        console.warn(f"left out: {where}: {why}")
    console.say(f"wrote {wrote[0]} and {len(wrote) - 1} parts of it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
