"""Run every experiment at scale=smoke, one after another, and print one line for each.

    tokenprune smoke [EXPERIMENT ...] [KEY=VALUE ...]        `make smoke` runs this; values go to every run

Experiments of published files are left out, unless they are named or `zoo.folder=DIR` says where the files are.
Exit status: 0 if all is well, 2 for an unknown experiment, 3 if experiments failed. Their logs lie in results/smoke/logs.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tokenprune.runs.presets import read
from tokenprune.runs.sources import given_folders, without_folders
from tokenprune.runs.sweep import BAD_ROW, experiments_asked
from tokenprune.utils import console
from tokenprune.utils.paths import config_dir

# Results go to a folder of their own, because tables of the same names are measured at other scales. The shipped weights are not changed.
SETTINGS = ("scale=smoke", "results_dir=results/smoke", "export_weights=null")


def main() -> None:
    """Run the experiments that the command line names, or all."""
    arguments = without_folders(sys.argv[1:])
    folders = [f"--config-dir={folder}" for folder in given_folders()]
    settings = [*folders, *(argument for argument in arguments if "=" in argument)]
    named = [argument for argument in arguments if "=" not in argument]
    names = experiments_asked(named, __doc__)
    if not named and not any(setting.startswith("zoo.folder=") for setting in settings):
        names = [name for name in names if not left_out(name)]
    failed = [name for name in names if not ran(name, settings)]
    if failed:
        console.fail(f"{len(failed)} of {len(names)} experiments failed: {', '.join(failed)}")
        sys.exit(BAD_ROW)


def left_out(name: str) -> bool:
    """Tell whether the rows of an experiment are published files, which no machine has by itself; say that it is left out then."""
    hydra = read(config_dir() / "experiment" / f"{name}.yaml").get("hydra", {})
    needs_files = "zoo" in hydra.get("sweeper", {}).get("params", {})
    if needs_files:
        console.say(f"{name}: left out, its rows are published files; zoo.folder=DIR data.root=DIR runs it")
    return needs_files


def ran(name: str, settings: Sequence[str], logs: Path = Path("results/smoke/logs")) -> bool:
    """Run one experiment in a process of its own, and print its outcome with its errors; return True if it succeeded."""
    command = [sys.executable, "-m", "tokenprune.run", f"+experiment={name}", *SETTINGS, *settings]
    begun = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True)
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{name}.txt").write_text(f"{ended.stdout}\n{ended.stderr}", encoding="utf-8")
    rows = sum(line.startswith("[") for line in ended.stdout.splitlines())
    word = "ok" if ended.returncode == 0 else f"failed (exit status {ended.returncode}, {logs / name}.txt)"
    console.say(f"{name}: {word}, {rows} rows, {time.monotonic() - begun:.0f} s")
    for line in ended.stderr.splitlines() if ended.returncode else ():
        if line.startswith("error: "):
            console.fail(line.removeprefix("error: "))
    return ended.returncode == 0


if __name__ == "__main__":
    main()
