"""The words of a command line before Hydra reads them, and what Hydra and OmegaConf say of them, as one line that helps."""

import argparse
import difflib
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokenprune.errors import InvalidConfig, TokenPruneError, hint
from tokenprune.registry import names
from tokenprune.runs.plugin_options import KINDS, defaults
from tokenprune.utils.settings import leaves, nearest_setting

FRESH = "--fresh"
_OF_CFG = ("job", "hydra", "all")
_OF_INFO = (*_OF_CFG[2:], "config", "defaults", "defaults-tree", "plugins", "searchpath")
# Hydra's flags, as its documentation lists them.
_SWITCHES = (
    ("--help", "-h"), ("--hydra-help",), ("--version",), ("--resolve",), ("--run", "-r"), ("--multirun", "-m"),
    ("--shell-completion", "-sc"),
)  # fmt: skip
_WITH_VALUES = {
    ("--cfg", "-c"): {"choices": _OF_CFG}, ("--package", "-p"): {}, ("--config-path", "-cp"): {}, ("--config-name", "-cn"): {},
    ("--config-dir", "-cd"): {}, ("--experimental-rerun",): {}, ("--info", "-i"): {"choices": _OF_INFO, "nargs": "?", "const": "all"},
}  # fmt: skip
_NO_KEY = re.compile(r"Could not override '([^']+)'\.?\s+To append to your config use")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.+)'\s+1\. ")
_PLAIN = re.compile(r"[\w/\-\\+.$%*@?|:\s]*", re.ASCII)  # values that Hydra's grammar takes as they are
_MARKS = set("'\"[]{}()\\=")  # of values that were written for Hydra's grammar
_FORM = "write KEY=VALUE"
_MOST_LISTED = 200  # options that a message lists; only the published files are more


def prepared(words: Sequence[str]) -> list[str]:
    """Return the arguments of a command line as Hydra takes them.

    Flags may stand anywhere, `--fresh` becomes a value, and values with characters that Hydra's grammar does not know, such as those of
    other alphabets and `~`, get the quotes that it asks for.

    Raises:
        InvalidConfig: a flag that does not exist.
    """
    words = [f"fresh={time.time()}" if word == FRESH else word for word in words]
    values, flags, before, taking = [], [], "", _flags_with_values()
    for word in words:
        is_value = "=" in word.lstrip("+~") and not word.startswith("-") and before not in taking
        (values if is_value else flags).append(word)
        before = word
    unknown = [word for word in _Flags().parse_known_args(flags)[1] if word.startswith("-")]
    if unknown:
        raise InvalidConfig(_unknown_flag(unknown[0], words))
    flags = [f"{flag}={Path(value).expanduser()}" if value.startswith("~") else flag for flag, value in map(_parted, flags)]
    return [*flags, *map(quoted, values)]


def quoted(word: str) -> str:
    """Return KEY=VALUE with quotes around a value that needs them; values with quotes or brackets of their own stay as they are."""
    key, equals, value = word.partition("=")
    if not equals or _MARKS & set(value) or _PLAIN.fullmatch(value):
        return word
    return f"{key}={','.join(part if _PLAIN.fullmatch(part) else repr(part) for part in value.split(','))}"


def explain(error: Exception) -> str:
    """Return an error of composing as one line that says what failed, what exists and what was probably meant."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        from tokenprune.runs.launchers import missing

        needed = missing(str(error.missing_cfg_file))
        if needed or error.options:
            return needed or _unknown_choice(str(error.missing_cfg_file), error.options or ())
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, error.message)
    if isinstance(error, ConfigCompositionException):
        told = _no_such_key(str(error)) or _several_values(str(error))
        if told:
            return told
    causes, cause = [str(error)], error.__cause__
    while cause is not None:
        causes.append(str(cause).split("\n")[0])
        cause = cause.__cause__
    return " ".join("; ".join(dict.fromkeys(causes)).split())


def _parted(flag: str) -> tuple[str, str]:
    name, _, value = flag.partition("=")
    return (name, value) if value.startswith("~") else (flag, "")


def _flags_with_values() -> set[str]:
    return {flag for flags, options in _WITH_VALUES.items() if "nargs" not in options for flag in flags}


class _Flags(argparse.ArgumentParser):
    """Reads Hydra's flags."""

    def __init__(self) -> None:
        super().__init__(add_help=False)
        self.add_argument("overrides", nargs="*")
        for flags in _SWITCHES:
            self.add_argument(*flags, action="store_true")
        for flags, options in _WITH_VALUES.items():
            self.add_argument(*flags, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse what is wrong with a flag, in the place of a page of usage."""
        raise InvalidConfig(f"{message}; `--help` shows the flags, and choices have none: method=evit")


def _unknown_flag(flag: str, words: Sequence[str]) -> str:
    known = [name for flags in (*_SWITCHES, *_WITH_VALUES) for name in flags] + [FRESH]
    after = [*words, ""][words.index(flag) + 1] if flag in words else ""
    name, _, value = flag.lstrip("-").partition("=")
    value = value or (after if not after.startswith("-") and "=" not in after else "")
    close = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
    told = f" Did you mean {close[0]}?" if close else f" Choices and values have no dashes: {name}={value or 'VALUE'}"
    return f"there is no flag {flag!r}.{told} (`--help` shows the flags)"


def _unknown_choice(path: str, options: Sequence[str]) -> str:
    group, _, name = path.rpartition("/")
    begun = [option for option in options if name and option.startswith(name)]  # table2 means table2_preserve
    many = len(options) > _MOST_LISTED
    there = f"tokenprune {group} list prints all {len(options)}" if many else f"Available: {', '.join(options)}"
    return f"unknown {group} {name!r}.{hint(begun[0] if begun else name, options, 0.5)} {there}"


def _unreadable(word: str, message: str) -> str:
    """Return what is wrong with an argument that Hydra's parser does not take."""
    key, equals, value = word.partition("=")
    if not equals:
        return f"{word!r} sets nothing: {_FORM}, e.g. method=evit or schedule.keep_rate=0.5"
    if value.endswith(","):
        return f"{word!r} ends with a comma: {_FORM}, several values with commas between them (-m {key}=a,b)"
    for begin, end in ("[]", "{}", "()"):
        if value.count(begin) != value.count(end):
            return f"{word!r} has {value.count(begin)} {begin!r} and {value.count(end)} {end!r}: close each one"
    if any(value.count(mark) % 2 for mark in "'\""):
        return f"{word!r} has a quote that is not closed: {_FORM}, with both quotes around the value or none"
    where = " ".join(message.split("See https")[0].split())
    return f"cannot read {word!r} ({where}): put a value with special characters in two pairs of quotes, \"{key}='{value}'\""


def _no_such_key(message: str) -> str | None:
    found = _NO_KEY.search(message)
    if found is None:
        return None
    nearest = nearest_setting(found.group(1), known_settings())
    return f"there is no setting {found.group(1)!r}.{nearest} `--cfg job` prints all of them for your choices"


def _several_values(message: str) -> str | None:
    found = _AMBIGUOUS.search(message)
    if found is None:
        return None
    word = found.group(1).replace("'", "")  # also those that `quoted` set
    key, _, value = word.partition("=")
    return f"{word!r} names several values: for a sweep over them add -m, for a list write {key}=[{value}], for a text \"{key}='{value}'\""


def known_settings() -> list[str]:
    """Return the path of every setting: those of the default run, and all options of registered plugins."""
    from tokenprune.runs import config

    found = [f"{kind}.{option}" for kind in KINDS for name in names(kind) for option in defaults(kind, name)]
    with suppress(HydraException, OmegaConfBaseException, TokenPruneError):
        cfg = config.composed([]) if GlobalHydra.instance().is_initialized() else config.compose([])
        found += leaves(OmegaConf.to_container(cfg, resolve=False))
    return list(dict.fromkeys(found))
