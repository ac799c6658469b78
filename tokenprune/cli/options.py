"""Checks of words on command lines that several commands share."""

import argparse
from collections.abc import Callable, Sequence

from tokenprune.utils import console


def command_parser(name: str, doc: str) -> argparse.ArgumentParser:
    """Return the parser of a command, whose help begins with the first line of its module's docstring and ends with the rest as it is.

    Args:
        name: The command, such as "show".
        doc: The docstring.
    """
    first, _, rest = doc.partition("\n")
    shape = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(console.program(name), description=first, epilog=rest, formatter_class=shape)


def among(kind: str, names: Sequence[str]) -> Callable[[str], str]:
    """Return the check, for `type` of argparse, that a word of a command line is one of some names.

    Args:
        kind: What the words are, for the message.
        names: Allowed words.
    """

    def checked(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind}; there are {', '.join(names)}")
        return text

    return checked
