"""Defines what is measured: a part is a list of cases, a case gives rows, and what fails in it is a row with a status."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokenprune.errors import TokenPruneError, reason_of, status_of

Row = dict[str, Any]
Facts = Mapping[str, Any]
_REASON = 300  # letters of a reason that a table shows
_UNSUPPORTED = ("not implemented for", "no kernel", "no available kernel", "not supported", "is not available", "unsupported", "captur")
BAD = ("failed", "differs", "diverged")  # statuses that are faults, of this package or of the machine


class Unsupported(TokenPruneError):
    """Something that this device, this torch or this installation cannot do."""

    status = "unsupported"


@dataclass(frozen=True)
class Setup:
    """Sets device and sizes; the defaults are the goals' own sizes, `tiny` those of a test on a CPU.

    Args:
        device: Device that is measured.
        vit: timm model of the 224-pixel measurements.
        options: Further arguments of `timm.create_model`.
        batches: Batch sizes, the most telling first.
        methods: Selectors whose speed is measured; none for all that save computation.
        rounds: Batches of a throughput, and timings of a call.
        steps: Training steps of each task.
        lengths: N of the ragged attention.
        scale: Scale of the papers' tables.
        short: Settings that all rows of the papers' tables get.
        backend: Backend of torch.compile.
        pairings: Every n-th legal pairing is compared.
        table_rows: Every n-th row of the papers' tables is measured.
    """

    device: torch.device
    vit: str = "deit_small_patch16_224"
    options: Mapping[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = (256, 1, 64, 1024, 512)
    methods: tuple[str, ...] = ()
    rounds: int = 5
    steps: int = 50
    lengths: tuple[int, ...] = (197, 577, 1025, 4097)
    scale: str = "paper"
    short: tuple[str, ...] = ()
    backend: str = "inductor"
    pairings: int = 1
    table_rows: int = 1


def tiny() -> Setup:
    """Return the set-up of a test: all parts on the CPU in less than two minutes."""
    small = {"embed_dim": 24, "num_heads": 3, "img_size": 64}
    once = ("task.evaluate.speed_warmup=0", "task.evaluate.speed_repeats=1")
    sizes: dict[str, Any] = {"batches": (2, 1), "lengths": (17,), "rounds": 1, "steps": 3, "pairings": 47, "table_rows": 4}
    vit, methods = "vit_tiny_patch16_224", ("topk", "svit")
    return Setup(torch.device("cpu"), vit, small, methods=methods, scale="smoke", short=once, backend="eager", **sizes)


@dataclass(frozen=True)
class Case:
    """Holds one measurement.

    Attributes:
        name: Unique in its part.
        run: Returns its rows; each may have a status and a reason of its own.
        needs: Least seconds that must be left to begin it.
    """

    name: str
    run: Callable[[], Sequence[Row]]
    needs: float = 0.0


@dataclass(frozen=True)
class Part:
    """Holds the cases of one file.

    Attributes:
        name: Name of its file.
        title: Heading on the page.
        text: What it measures, in a sentence or two.
        cases: Makes its cases.
        share: Share of the whole time that it may take before the parts behind it have had theirs.
        curves: Columns of its curves: across, up, and the name of a curve; None for none.
    """

    name: str
    title: str
    text: str
    cases: Callable[[Setup], Iterable[Case]]
    share: float
    curves: tuple[str, str, str] | None = None


def attempted(case: Case) -> list[Row]:
    """Return the rows of a case; an error becomes a row with a status, so that the measurements behind it go on."""
    try:
        return [{"case": case.name, "status": "ok", "reason": "", **row} for row in case.run()]
    except Exception as error:  # any kind: a driver has many
        return [{"case": case.name, "status": status(error), "reason": reason_of(error)[:_REASON]}]


def status(error: BaseException) -> str:
    """Return what a row records for an error: `oom`, `unsupported`, the status of an error of this package, or `failed`."""
    found = status_of(error)
    if found != "failed":
        return found
    words = str(error).lower()
    missing = isinstance(error, (NotImplementedError, ImportError)) or type(error).__name__ in ("Unsupported", "MissingDependency")
    return "unsupported" if missing or (isinstance(error, RuntimeError) and any(text in words for text in _UNSUPPORTED)) else "failed"
