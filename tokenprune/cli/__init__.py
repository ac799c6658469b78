"""Runs the command `tokenprune`: one sub-command for each task."""

import importlib
import os
import sys
from collections.abc import Sequence

from tokenprune.errors import hint
from tokenprune.utils import console

COMMANDS = {
    "demo": ("tokenprune.cli.demo.__main__", "start here: a picture, a table and a curve in less than five minutes"),
    "run": ("tokenprune.run", "run one row or a sweep: tokenprune run +experiment=table2_preserve"),
    "list": ("tokenprune.cli.list", "print all plugins, methods and experiments"),
    "explain": ("tokenprune.cli.explain", "print the files and rules that made a run: tokenprune explain method=svit scale=paper"),
    "validate": ("tokenprune.cli.validate", "check every row of every experiment without data or weights"),
    "smoke": ("tokenprune.cli.smoke", "run every experiment in seconds a row"),
    "show": ("tokenprune.cli.show", "show which tokens methods keep of your pictures, as one page: tokenprune show photo.jpg --model ..."),
    "report": ("tokenprune.report.__main__", "write one page of results folders, to explore or to print"),
    "bench": ("tokenprune.cli.bench.__main__", "measure the engine's speed against its goals"),
    "gpu": ("tokenprune.cli.gpu.__main__", "check and measure everything on one GPU: a table, curves, one page"),
    "zoo": ("tokenprune.cli.zoo", "published files: list them, judge one, convert one"),
    "export": ("tokenprune.cli.export", "export a classifier with torch.export or as ONNX"),
    "docs": ("tokenprune.cli.docs.__main__", "write the generated pages of docs/ again"),
    "install-detectron2": ("tokenprune.cli.install_detectron2.__main__", "install Detectron2 without a compiler"),
}
USAGE = 2  # exit status of a command line that cannot be understood


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sub-command that the command line names; the arguments behind it belong to the sub-command.

    Args:
        arguments: The words behind `tokenprune`; None takes those of the process.

    Returns:
        The exit status of the sub-command; 2 for an unknown one.
    """
    words = [*(sys.argv[1:] if arguments is None else arguments)]  # not list(), because cli.list is a module of that name
    if not words or words[0] in ("-h", "--help"):
        console.say(_help())
        return 0 if words else USAGE
    if words[0] == "--version":
        from tokenprune import __version__

        console.say(__version__)
        return 0
    if words[0] not in COMMANDS:
        console.fail(f"unknown command {words[0]!r}.{hint(words[0], COMMANDS)} Available: {', '.join(COMMANDS)}")
        return USAGE
    sys.argv = [f"tokenprune {words[0]}", *words[1:]]
    try:
        return importlib.import_module(COMMANDS[words[0]][0]).main() or 0
    except BrokenPipeError:  # who reads the output has seen enough: `tokenprune list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}s}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: tokenprune COMMAND [ARGUMENT ...]", "", *lines, "", "Also: python -m tokenprune.NAME, with _ for -, of all but zoo."]
    )
