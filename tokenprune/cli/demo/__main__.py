"""From nothing to a picture, a table and a curve, in less than five minutes on two CPU cores, and what to try next.

    tokenprune demo                                    all of it, linked by results/demo/index.html
    tokenprune demo --out DIR                          the same in another folder
    tokenprune demo schedule.keep_rate=0.8,0.6         words KEY=VALUE go to the run that makes the table

Nothing is downloaded: the models and their pictures come with tokenprune. Each step is a command, which is printed, so that you can type it
yourself. Rows are stored: the same command again reads them and is quick.
Exit status: 0 if all is well, else that of the step that failed.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tokenprune.cli.demo import page
from tokenprune.cli.demo.steps import Step, steps
from tokenprune.cli.options import command_parser
from tokenprune.errors import TokenPruneError
from tokenprune.utils import console
from tokenprune.utils.paths import home_path

_WRONG = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps, write the page after each of them, and return the exit status."""
    given = _parser().parse_args(arguments)
    chosen, begun, done = steps(given.out, given.settings), time.monotonic(), []
    for number, step in enumerate(chosen, 1):
        console.say(f"\n{number} of {len(chosen)}: {step.title}. {step.about}\n    {shlex.join(step.command)}")
        start = time.monotonic()
        status = ran(step)
        if status:
            console.fail(f"demo: step {number} ended with exit status {status}; the lines above say why. The same command goes on")
            return status
        done.append(page.Done(step, time.monotonic() - start))
        try:
            wrote = page.write(given.out, done)
        except TokenPruneError as error:
            console.fail(str(error))
            return _WRONG
        console.say(f"{in_words(time.monotonic() - begun)} since the start: {step.told}")
    console.say(f"\nOpen {wrote} in a browser: it links all of this, and says what to try next.")
    return 0


def ran(step: Step) -> int:
    """Run a step in a process of its own, whose lines are seen as they come; return its exit status."""
    return subprocess.run([sys.executable, "-m", f"tokenprune.{step.command[1]}", *step.command[2:]]).returncode


def in_words(seconds: float) -> str:
    """Return a time such as "1 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _setting(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no setting; give KEY=VALUE as for `tokenprune run`, such as schedule.keep_rate=0.8")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("demo", __doc__)
    parser.add_argument("settings", nargs="*", type=_setting, metavar="KEY=VALUE", help="values for the run that makes the table")
    parser.add_argument("--out", type=home_path, default=Path("results/demo"), help="folder of everything (default: results/demo)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
