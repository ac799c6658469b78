"""Runs the one training loop of every task: AdamW, warm-up, a schedule, clipping, AMP on CUDA, exact resume, one process or several."""

import inspect
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tokenprune.errors import CheckpointMismatch, Diverged, InvalidConfig
from tokenprune.training.averaging import WeightAverage
from tokenprune.training.curve import LossCurve, mean_losses
from tokenprune.training.learning_rates import learning_rate, parameter_groups
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils import distributed
from tokenprune.utils.checkpoints import read_plain
from tokenprune.utils.console import progress
from tokenprune.utils.files import atomic_write, saving

LossFn = Callable[[nn.Module, Any], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainingReport:
    """Holds the result of a run.

    Attributes:
        losses: Named losses, averaged over the last 10 % of the run.
        seconds: Wall seconds over all resumed parts.
        iterations: Iterations done.
        notes: Notes for the row.
        curve: Losses over the run, see `curve.LossCurve.points`.
    """

    losses: dict[str, float]
    seconds: float
    iterations: int
    notes: tuple[str, ...] = ()
    curve: tuple[dict[str, float], ...] = ()


def fit(
    model: nn.Module,
    batches: Callable[[int], Iterator[Any]],
    loss_fn: LossFn,
    cfg: TrainingConfig,
    workdir: Path,
    description: str = "training",
    before_step: Callable[[nn.Module, int], None] | None = None,
    after_step: Callable[[int, dict[str, float], list[float]], None] | None = None,
) -> TrainingReport:
    """Train `model` in place and keep `workdir/last.pt`; if that file exists, go on from it, bit for bit on a CPU.

    Under several processes (`distributed.processes`) all of them call this, each with its share of every batch. Gradients and reported
    losses are means over the processes. `last.pt` equals that of a single process: one process may go on from it, and the other way round.

    Args:
        model: The model.
        batches: Given a start iteration, returns the batches from there on. Batch i must depend on i alone, or resuming is not exact.
        loss_fn: (model, batch) -> named scalar losses; their sum is minimised.
        cfg: The recipe.
        workdir: Folder of `last.pt`.
        description: Name of the progress bar.
        before_step: Called with (model, iteration) before each batch, for schedules that depend on progress.
        after_step: Called with (iteration, losses, learning rates of the groups of parameters) after each step, for who follows the run.

    Raises:
        Diverged: A loss is NaN or infinite; the message names the iteration and every loss.
        CheckpointMismatch: `last.pt` belongs to another model or another recipe.
        InvalidConfig: The data ended before the last iteration.
        PeerFailed: Another process failed.
    """
    with distributed.training_group(), closing(_Run(model, loss_fn, cfg, Path(workdir))) as run:
        model.train()
        if not cfg.drop_path:
            _switch_drop_path_off(model)
        steps = progress(range(run.iteration, cfg.iterations), description, cfg.iterations, run.iteration)
        for iteration, batch in zip(steps, batches(run.iteration) if run.iteration < cfg.iterations else (), strict=False):
            if before_step:
                before_step(model, iteration)
            losses = run.step(batch, iteration)
            if after_step:
                after_step(iteration, losses, [group["lr"] for group in run.optimizer.param_groups])
            steps.set_postfix(loss=f"{sum(losses.values()):.3f}", refresh=False)
            if run.iteration == cfg.iterations or (cfg.checkpoint_every and run.iteration % cfg.checkpoint_every == 0):
                with saving(run.path):  # a full disk must not cost what was learned
                    run.save()
        run.average.give(model)
    if run.iteration < cfg.iterations:
        raise InvalidConfig(f"{description}: the data ended after {run.iteration} of {cfg.iterations} batches; use an endless iterator")
    return TrainingReport(mean_losses(run.history), run.seconds(), run.iteration, run.notes, tuple(run.curve.points))


def _switch_drop_path_off(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, DropPath):
            module.eval()


class _LossesOf(nn.Module):
    """Wraps loss_fn(model, batch) as a forward: DistributedDataParallel sees forwards only, and tasks call a model by several methods."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self.loss_fn(self.model, batch)


def _spread(model: nn.Module, loss_fn: LossFn, group: Any) -> tuple[Callable[[Any], dict[str, Tensor]], tuple[str, ...]]:
    """Return the function that computes the losses of a batch, with gradients averaged over the processes of a group, and notes on that."""
    if group is None:
        return partial(loss_fn, model), ()
    notes = [f"trained by {distributed.world()} processes"]
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
    elif any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        notes.append("batch norms took each process's own images: SyncBatchNorm needs CUDA")
    # The graph is static: the set of parameters that get a gradient never changes. Only token counts change, which DDP does not see. Some
    # parameters get none (Cropr's router without its auxiliary loss; a norm that a task does not read). Plain DDP would wait for them, and
    # find_unused_parameters would search for them each time. That search is left to selectors that learn by turns (IA-RED2) and to
    # schedules that change which selectors decide.
    # Buffers start as copies of the main process's. Later each process keeps its own, and nothing reads those of the others.
    steady = all(getattr(m, "steady", True) for m in model.modules())
    graph = {"static_graph": True} if steady else {"find_unused_parameters": True}
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DistributedDataParallel(_LossesOf(model, loss_fn), process_group=group, **graph, **buffers), tuple(notes)


class _Run:
    """Holds the state of one training run, and stores and restores it."""

    def __init__(self, model: nn.Module, loss_fn: LossFn, cfg: TrainingConfig, workdir: Path) -> None:
        self.model, self.cfg, self.path = model, cfg, workdir / "last.pt"
        self.average = WeightAverage(model, cfg.ema)
        self.losses_of, self.notes = _spread(model, loss_fn, distributed.group())
        self.device = next(model.parameters()).device
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(parameter_groups(model, cfg), betas=cfg.betas, fused=fused)
        self.amp = cfg.amp == "bf16" or (cfg.amp and self.device.type == "cuda")
        half = cfg.amp is True and self.amp and not torch.cuda.is_bf16_supported()
        self.dtype = torch.float16 if half else torch.bfloat16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.history: deque[dict[str, float]] = deque(maxlen=max(1, cfg.iterations // 10))
        self.curve = LossCurve(cfg.iterations)
        self.iteration, self.before, self.begun = 0, 0.0, time.perf_counter()
        torch.manual_seed(cfg.seed * distributed.world() + distributed.rank())  # each process draws its own noise for its images
        if distributed.of_main(self.path.exists):
            self._resume()

    def close(self) -> None:
        """Release the processes' group. On gloo its other members wait until nothing refers to it."""
        self.losses_of = None
        for module in self.model.modules():
            if isinstance(module, nn.SyncBatchNorm):
                module.process_group = None

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.begun

    def step(self, batch: Any, iteration: int) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(group, self.cfg, iteration)
        with torch.autocast(self.device.type, self.dtype) if self.amp else nullcontext():
            losses = self.losses_of(batch)
        total = torch.stack([v.float() for v in losses.values()])
        values = mean_losses(distributed.gather(dict(zip(losses, total.detach().tolist(), strict=True))))  # one host sync; all decide alike
        if not all(math.isfinite(v) for v in values.values()):
            raise Diverged(f"loss is not finite at iteration {iteration}: {values}; lower training.lr or lengthen training.warmup")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total.sum()).backward()
        self.scaler.unscale_(self.optimizer)
        if self.cfg.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model)
        self.iteration = iteration + 1
        self.history.append(values)
        self.curve.add(self.iteration, values)
        return values

    def save(self) -> None:
        rngs = distributed.gather(_rng_state())
        if not distributed.is_main():
            return
        content = {
            "iteration": self.iteration,
            "seconds": self.seconds(),
            "history": list(self.history),
            "curve": self.curve.state(),
            "rng": rngs[0],
            "peers": rngs[1:],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "recipe": _recipe(self.cfg),
            "average": self.average.state(),
        }
        atomic_write(self.path, lambda part: torch.save(content, part))

    def _resume(self) -> None:
        saved = read_plain(self.path)
        if not isinstance(saved, Mapping) or "recipe" not in saved:
            raise CheckpointMismatch(f"{self.path} is no checkpoint of a training run; remove it, and the run begins again")
        stored = {f.name: f.default for f in fields(self.cfg) if f.default is not MISSING} | saved["recipe"]  # settings newer than the file
        differing = [f"{k}: stored {stored.get(k)!r}, now {v!r}" for k, v in _recipe(self.cfg).items() if stored.get(k) != v]
        if differing:
            raise CheckpointMismatch(f"{self.path.name} is of another recipe ({'; '.join(differing)}); remove it or use another folder")
        try:
            self.model.load_state_dict(saved["model"])
        except RuntimeError as error:
            raise CheckpointMismatch(f"{self.path.name} is of another model ({error}); remove it or use another folder") from error
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.average.resume(saved.get("average"))
        self.history.extend(saved["history"])
        self.curve.resume(saved.get("curve"))
        self.iteration, self.before = saved["iteration"], saved["seconds"]
        rngs = [saved["rng"], *saved.get("peers", ())]
        if distributed.rank() < len(rngs):  # a process that did not exist before keeps its new seed
            _set_rng_state(rngs[distributed.rank()])


def _rng_state() -> dict[str, Any]:
    """Return the state of this process's generators: the CPU's, and those of all devices, or of its own device if it is one of several."""
    if not torch.cuda.is_available():
        return {"cpu": torch.get_rng_state(), "cuda": []}
    cuda = torch.cuda.get_rng_state_all() if distributed.world() == 1 else [torch.cuda.get_rng_state()]
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_rng_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["cpu"])
    first = torch.cuda.current_device() if distributed.world() > 1 and torch.cuda.is_available() else 0
    for i, state in enumerate(saved["cuda"][: torch.cuda.device_count() - first], first):
        torch.cuda.set_rng_state(state, i)


def _recipe(cfg: TrainingConfig) -> dict[str, Any]:
    values = asdict(cfg)
    for name in ("checkpoint_every", "workers"):  # neither changes the result
        values.pop(name)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
