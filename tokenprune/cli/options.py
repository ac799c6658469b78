"""Checks of words on command lines that several commands share."""

import argparse
from collections.abc import Callable, Sequence


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
