"""The exception tree. Every message says what failed, what was given, what is allowed and how to fix it."""


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


class ResultSchemaError(TokenPruneError):
    """A result file that does not follow the schema."""


class Diverged(TokenPruneError):
    """A loss that is no longer finite: a legitimate row of a table (SViT's Table 5 has one)."""

    status = "diverged"
