"""What the files of conf/experiment say of themselves in the comments that they open with, for reports and for the docs."""

import re
from dataclasses import dataclass

from tokenprune.utils.paths import config_dir

_SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")
_PARTS = re.compile(r"(Time|Expect)\b")


@dataclass(frozen=True)
class Described:
    """One experiment.

    Args:
        name: as in `+experiment=NAME`.
        command: what runs it. remark: what stands behind the command, "" for nothing.
        purpose: what it shows. time: how long it takes. expect: the numbers to expect, and how to run it on other data; "" where not said.
    """

    name: str
    command: str
    remark: str
    purpose: str
    time: str
    expect: str

    @property
    def gist(self) -> str:
        """Return the first sentence of the purpose."""
        return _SENTENCE.split(self.purpose, maxsplit=1)[0].removesuffix(".")


def experiment(name: str) -> Described | None:
    """Return what conf/experiment/NAME.yaml says of itself; None without such a file. Settings in NAME (`__seed-1`) do not count."""
    name = name.partition("__")[0]
    path = config_dir() / "experiment" / f"{name}.yaml"
    return of_text(name, path.read_text(encoding="utf-8")) if path.is_file() else None


def of_text(name: str, text: str) -> Described:
    """Return what a file of this text says: the command first, then the purpose, `Time:` and `Expect:`."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    command, _, remark = (lines[0] if lines else "").partition("     ")
    parts = {"": [], "Time": [], "Expect": []}
    current = ""
    for line in lines[1:]:
        found = _PARTS.match(line)
        current = found.group(1) if found else current
        parts[current].append(line)
    purpose, time, expect = (" ".join(line for line in part if line) for part in parts.values())
    return Described(name, command.strip(), remark.strip().strip("()"), purpose, _bare(time, "Time"), _bare(expect, "Expect"))


def _bare(text: str, word: str) -> str:
    return text.removeprefix(f"{word}:").strip() if text.startswith(f"{word}:") else text.removeprefix(word).strip()
