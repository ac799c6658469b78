"""Trains one method a task for some steps in mixed precision: every loss is finite, and the loss of one repeated batch falls."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from tokenprune.cli.gpu.cases import Case, Row, Setup
from tokenprune.runs.composer import composer
from tokenprune.runs.config import resolve
from tokenprune.runs.run import Run
from tokenprune.training.loop import fit

TASKS = {"classification": "dynamicvit", "segmentation": "cropr", "detection": "svit"}
_PART = 5  # the first and the last fifth of the steps are compared

_JUDGED = 20  # fewer steps are too noisy to say that a loss does not fall


def cases(setup: Setup) -> Iterator[Case]:
    """Yield a case for each task."""
    for task, method in TASKS.items():
        yield Case(f"{task}, {method}", partial(trained, task, method, setup.steps, setup.device))


def trained(task: str, method: str, steps: int, device: torch.device) -> list[Row]:
    """Return the losses of a training of the smallest model of a task, in bfloat16 where the device has it, on a CPU always."""
    with composer() as compose:
        kind = "true" if device.type == "cuda" else "bf16"
        amp = [f"training.iterations={steps}", f"training.amp={kind}", "training.warmup=0", "training.checkpoint_every=0"]
        run = resolve(compose.compose([f"task={task}", f"method={method}", "scale=smoke", "init=scratch", *amp]))
    losses = losses_of(run, steps, device)
    part = max(1, steps // _PART)
    first, last = fmean(losses[:part]), fmean(losses[-part:])
    finite, falling = all(map(math.isfinite, losses)), last < first or steps < _JUDGED
    reason = "" if finite and falling else "a loss is not finite" if not finite else "the loss did not fall"
    row = {"task": task, "method": method, "steps": len(losses), "first_loss": first, "last_loss": last}
    return [{**row, "status": "diverged" if reason else "ok", "reason": reason}]


def losses_of(run: Run, steps: int, device: torch.device) -> list[float]:
    """Return the summed loss of each step on the first batch of a run, repeated."""
    task, seen = run.task_kind(), []
    torch.manual_seed(run.seed)
    model = task.build_model(run).to(device)
    task.begin(model)
    batch = next(iter(task.train_batches(run, 0)))

    def loss(model: Any, batch: Any) -> dict[str, torch.Tensor]:
        found = task.losses(model, batch)
        seen.append(sum(found.values()).detach())  # type: ignore[union-attr]
        return found

    with tempfile.TemporaryDirectory() as folder:
        fit(model, lambda start: repeat(batch, steps - start), loss, run.recipe, Path(folder), f"{run.task_name} in mixed precision")
    return _numbers(seen)


def _numbers(values: Sequence[torch.Tensor]) -> list[float]:
    """Return the values of all steps, read from the device once."""
    return torch.stack([value.float() for value in values]).tolist()
