"""The exception tree. Every message says what failed, what was given, what is allowed and how to fix it."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

_FOREIGN_LENGTH = 400  # letters of an error that is none of ours
_OF_TORCH = {"torch", "<frozen importlib._bootstrap>"}  # parts of paths; what called torch tells more


class TokenPruneError(Exception):
    """Base of every error a user can cause or cure; `status` is what a result row records for it."""

    status = "failed"


class UnknownPlugin(TokenPruneError):
    """A selector, treatment, schedule, task or data set that no registry entry has."""


class IncompatiblePairing(TokenPruneError):
    """A selector, treatment, schedule and execution that cannot work together (a result, not a crash)."""

    status = "invalid"


class InvalidSchedule(TokenPruneError):
    """A schedule that does not fit the depth, the grid or itself."""

    status = "invalid"


class InvalidConfig(TokenPruneError):
    """Everything wrong with one configuration, collected, so that it is mended in one go."""

    status = "invalid"

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


class UnsupportedBackbone(TokenPruneError):
    """A model or block that no adapter knows; refused by name instead of run wrongly."""


class CheckpointMismatch(TokenPruneError):
    """A checkpoint of another model; lists every key at once."""


class DatasetError(TokenPruneError):
    """A data file that is missing or malformed; names file, record and field."""


class MissingDependency(TokenPruneError):
    """An optional package that is not installed; says in one line how to get it."""


class ExportRefused(TokenPruneError):
    """A model that cannot be written for deployment; says why and what can."""


class ResultSchemaError(TokenPruneError):
    """A result file that does not follow the schema."""


class OtherVersion(ResultSchemaError):
    """A result row in the form of another version of this package.

    Args:
        key: The key of the row.
        schema: The schema of the row.
        known: The schema that this version reads.
        maker: The version that wrote the row; "unknown" if it does not say.
    """

    def __init__(self, key: str, schema: int, known: int, maker: str) -> None:
        super().__init__(
            f"result row {key} does not follow schema {known}: tokenprune {maker} wrote it in schema {schema}; read it with that"
            " version, or run it again"
        )
        self.schema, self.maker = schema, maker


class Diverged(TokenPruneError):
    """A loss that is no longer finite: a legitimate row of a table (SViT's Table 5 has one)."""

    status = "diverged"


class CannotWrite(TokenPruneError):
    """A folder or disk that takes no files; says which and why."""


class PeerFailed(TokenPruneError):
    """Another process of this run failed: its number, what a row records for it, and its traceback."""

    def __init__(self, reason: str, number: int, status: str, trace: str) -> None:
        super().__init__(reason)
        self.number, self.status, self.trace = number, status, trace


def status_of(error: BaseException) -> str:
    """Return what a result row records for an error: a TokenPruneError's own status, `oom`, or `failed`."""
    if is_out_of_memory(error):
        return "oom"
    return error.status if isinstance(error, TokenPruneError) else "failed"


def reason_of(error: BaseException) -> str:
    """Return an error in one line; where it is none of ours, with its type, and the file and line that raised it."""
    if isinstance(error, TokenPruneError):
        return " ".join(str(error).split())
    place = place_of(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_FOREIGN_LENGTH]}" + (f" ({place})" if place else "")


def place_of(error: BaseException) -> str:
    """Return "package/file.py:LINE" of the last frame of an error outside of torch; "" for an error that was never raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _OF_TORCH & set(Path(frame.filename).parts)] or frames
    return f"{'/'.join(Path(own[-1].filename).parts[-2:])}:{own[-1].lineno}" if own else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a GPU or on the host."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and ("not enough memory" in text or "can't allocate memory" in text or "out of memory" in text)
    )  # fmt: skip


def hint(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return " Did you mean 'NAME'?" for the closest known name, "" where none is as close as `cutoff` (0 to 1, difflib's ratio)."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f" Did you mean {close[0]!r}?" if close else ""
