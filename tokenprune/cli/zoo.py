"""Published files: print them, judge one as its authors do, or turn one into a file of this project or of timm.

tokenprune zoo list [WORD ...]                                every published file; WORD: a part of name, method, model, task, family
tokenprune zoo verify NAME --weights FILE --data ROOT         accuracy beside the printed numbers, one result row
tokenprune zoo convert FILE --to tokenprune --out NEW         safetensors for tokenprune.load(NEW); --to timm: for timm
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tokenprune.cli.list import aligned
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.runs.command_line import explain
from tokenprune.utils import console
from tokenprune.utils.paths import home_path
from tokenprune.zoo.catalog import Entry, entries, entry

FORMS = ("tokenprune", "timm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sub-command; return the exit status: 1 for an error, 3 for a file that does not give the printed numbers."""
    parser = _parser()
    given, overrides = parser.parse_known_args(arguments)
    if overrides and (given.command != "verify" or any(word.startswith("-") for word in overrides)):
        parser.error(f"unknown argument {overrides[0]!r}")
    try:
        return _COMMANDS[given.command](given, overrides)
    except (HydraException, OmegaConfBaseException, TokenPruneError) as error:
        console.fail(explain(error))
        return 1


def listed(words: Sequence[str] = ()) -> str:
    """Return the table of published files whose name, method, model or task contains every word.

    Raises:
        InvalidConfig: There is none.
    """
    found = [e for e in entries() if all(word.lower() in f"{e.name} {e.method} {e.model} {e.task} {e.family}".lower() for word in words)]
    if not found:
        raise InvalidConfig(f"no published file has {' and '.join(words)} in its name, method, model or task; leave them out to see all")
    head = ["name", "method", "model", "task", "printed", "size", "licence", "needs", "file", "link"]
    return aligned(f"{len(found)} published files (tokenprune zoo verify NAME)", head, [_cells(e) for e in found])


def _cells(e: Entry) -> list[str]:
    size = "-" if e.size is None else f"{e.size:g} MiB"
    printed = f"refused: {e.refused}" if e.refused else numbers_of(e.printed) or "-"
    return [e.name, e.method, e.model, e.task, printed, size, e.licence or "-", e.needs or "-", e.file, e.link or "-"]


def numbers_of(printed: Mapping[str, Any]) -> str:
    """Return metrics with their numbers in one line."""
    return ", ".join(f"{metric} {number}" for metric, number in printed.items())


def _list(given: argparse.Namespace, _: Sequence[str]) -> int:
    console.say(listed(given.words))
    return 0


def _verify(given: argparse.Namespace, overrides: Sequence[str]) -> int:
    from tokenprune.runs import released
    from tokenprune.runs.summary import shown_row
    from tokenprune.runs.validation import validate

    released.require_known(overrides)
    chosen = entry(given.name)
    settings = _settings(given.set)
    imported = released.checked(chosen, given.weights, settings)
    root = [] if given.data is None else [f"data.root='{given.data.resolve()}'"]
    run = released.run_of(chosen, given.weights, [*root, *overrides])
    run = released.with_method(run, imported) if settings else run
    released.check_size(imported, run)
    for text in released.differences(imported, run):
        console.warn(f"{chosen.name}: {text}")
    for key, reason in imported.left_out.items():
        console.say(f"left out of the file: {key}* ({reason})")
    validate(run)
    released.check_classes(imported, run)
    row = shown_row(run)
    console.say("\n".join(released.in_words(chosen, row)))
    if run.data.get("max_val") is None:  # numbers of a part of the data compare with nobody's
        text = yaml.safe_dump({"entries": {chosen.name: released.contribution(chosen, given.weights, row)}}, sort_keys=False)
        console.say(f"To contribute this measurement, send the row and these values for tokenprune/zoo/{chosen.family}.yaml:\n{text}")
    return 0 if all(v.within for v in released.verdicts(chosen, row)) else 3


def _convert(given: argparse.Namespace, _: Sequence[str]) -> int:
    from tokenprune.zoo.convert import to_timm, to_tokenprune
    from tokenprune.zoo.load import read

    settings = {**(dict(entry(given.entry).given) if given.entry else {}), **_settings(given.set)}
    imported = read(given.file, settings)
    write = {"tokenprune": to_tokenprune, "timm": to_timm}[given.to]
    for line in write(imported, given.file, given.out):
        console.say(line)
    return 0


_COMMANDS = {"list": _list, "verify": _verify, "convert": _convert}


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE words as settings, their values read as JSON where they are."""
    found: dict[str, Any] = {}
    for word in words:
        name, is_set, value = word.partition("=")
        if not is_set:
            raise InvalidConfig(f"--set {word!r} sets nothing: write --set NAME=VALUE, e.g. --set keep_rate=0.7")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(console.program("zoo"), description=__doc__, formatter_class=shape)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    each = commands.add_parser("list", help="print every published file")
    each.add_argument("words", nargs="*", metavar="WORD", help="print those that have it in their name, method, model or task")
    judge = commands.add_parser("verify", help="judge a file as its authors do; further words KEY=VALUE change the run")
    judge.add_argument("name", help="name of the file, as `tokenprune zoo list` prints it")
    judge.add_argument("--weights", type=home_path, required=True, metavar="FILE", help="the file")
    judge.add_argument("--data", type=home_path, metavar="ROOT", help="folder of the data")
    change = commands.add_parser("convert", help="turn a published file into one of this project, or of timm")
    change.add_argument("file", type=home_path, metavar="FILE", help="the published file")
    change.add_argument("--to", choices=FORMS, default="tokenprune", help="timm: the encoder alone, in timm's keys")
    change.add_argument("--out", type=home_path, required=True, metavar="NEW", help="the new file, .safetensors")
    change.add_argument("--entry", metavar="NAME", help="take the settings that the file does not say from this entry of the zoo")
    for command in (judge, change):
        command.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting that the file does not say, such as keep_rate=0.7"
        )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
