"""Connects the processes of one run that `torchrun` starts: their ranks, their messages, and their common end after a failure.

Control (gloo, the default group) carries decisions, rows and errors. It may wait for days, because one process evaluates while the others
wait. A training's own group (NCCL on CUDA, else gloo) carries gradients. Without torchrun there is one process: no group is made, and every
function here returns at once.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tokenprune.errors import InvalidConfig, PeerFailed, reason_of, status_of

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
CONTROL_WAIT = timedelta(days=7)  # longer than any evaluation, and than any other run that holds the lock of a row
TRAINING_WAIT = timedelta(minutes=10)  # torch's own default for NCCL
_SET_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_training: list[Any] = []  # the group of the training in progress


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started, as its environment variables say, and leave them after the body.

    Raises:
        InvalidConfig: There are more processes on this machine than CUDA devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not all(name in os.environ for name in _SET_BY_TORCHRUN):
        yield
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        number, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= devices:
            raise InvalidConfig(f"torchrun started process {number} where there are {devices} CUDA devices; use --nproc_per_node={devices}")
        torch.cuda.set_device(number)
    dist.init_process_group("gloo", timeout=CONTROL_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process; 0 if there is only one."""
    dist = _joined()
    return dist.get_rank() if dist else 0


def world() -> int:
    """Return the number of processes."""
    dist = _joined()
    return dist.get_world_size() if dist else 1


def is_main() -> bool:
    """Tell if this process is the one that prints, locks, evaluates and writes."""
    return rank() == 0


def leave(code: int) -> NoReturn:
    """End this process with a status; 0 if it is not the main one.

    torchrun ends all other processes at the first failure, even while they are writing.
    """
    sys.exit(code if is_main() else 0)


def gather(value: T) -> list[T]:
    """Return the value that every process gives here (anything that pickles), in the order of their ranks; all wait for the last.

    Raises:
        PeerFailed: A process failed before it came here (see `together`).
    """
    return _exchange(value, None) if world() > 1 else [value]


def of_main(make: Callable[[], T]) -> T:
    """Return the value of `make` in the main process, the only one that calls it."""
    return gather(make() if is_main() else None)[0]


@contextmanager
def together() -> Iterator[None]:
    """If one process raises in the body, all others raise PeerFailed at their next `gather`.

    If several fail, the first in time counts. It is the cause; the others are its consequences, such as lost connections.
    """
    try:
        yield
    except PeerFailed:
        raise
    except Exception as error:
        if world() > 1:
            _report(error)
        raise


@contextmanager
def training_group() -> Iterator[None]:
    """Open the group over which the training in the body averages its gradients (see `group`); none for a single process.

    Closing it releases the processes that wait in it, so that they learn which one failed: on gloo at once; NCCL ends them after
    TRAINING_WAIT.
    """
    if world() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    gather(None)  # so no process waits for the connection of one that failed before
    _training.append(dist.new_group(backend="nccl" if torch.cuda.is_available() else "gloo", timeout=TRAINING_WAIT))
    try:
        yield
    except Exception as error:
        _raised_at(error)  # before the others lose their connection to this process
        raise
    finally:
        dist.destroy_process_group(_training.pop())


def group() -> Any:
    """Return the group of the training in progress; None if there is none, or one process."""
    return _training[-1] if _training else None


def average(values: "Sequence[Tensor]") -> "list[Tensor]":
    """Return the means of scalars over all processes, with the gradient of the process's own values.

    Averaged over processes, as DistributedDataParallel does, such a gradient is that of the means. A single process gets its values back.
    """
    if world() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    means = torch.stack([v.detach().float() for v in values])
    dist.all_reduce(means, group=group())
    means /= world()
    return [mean.to(v.dtype) + (v - v.detach()) for mean, v in zip(means, values, strict=True)]


def _joined() -> Any:
    """Return torch.distributed if this process is one of several, else None. torch is not loaded for this."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def _exchange(value: Any, failure: tuple[Any, ...] | None) -> list[Any]:
    import torch.distributed as dist

    notes: list[Any] = [None] * world()
    dist.all_gather_object(notes, (value, failure))
    failures = [note[1] for note in notes if note[1] is not None]
    if failures:
        _, number, status, reason, trace = min(failures)
        raise PeerFailed(f"process {number}: {reason}", number, status, trace)
    return [note[0] for note in notes]


def _report(error: Exception) -> None:
    """Tell all processes of an error.

    Raises:
        PeerFailed: Another process failed before, and in another way.
    """
    try:
        _exchange(None, (_raised_at(error), rank(), status_of(error), reason_of(error), traceback.format_exc()))
    except PeerFailed as first:
        if str(first) != f"process {first.number}: {reason_of(error)}":
            raise first from error


def _raised_at(error: Exception) -> float:
    """Return the time at which an error was first seen here, which is kept on the error itself."""
    error.__dict__.setdefault("raised_at", time.time())
    return float(error.__dict__["raised_at"])
