"""Follows a run while it is trained and judged: files of TensorBoard or Weights & Biases beside the rows. No number depends on it."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tokenprune.errors import MissingDependency, TokenPruneError
from tokenprune.utils import console, distributed
from tokenprune.utils.paths import at_home

if TYPE_CHECKING:
    from tokenprune.engine.outputs import Outputs
    from tokenprune.runs.run import Run
    from tokenprune.tasks.base import Task
    from tokenprune.tasks.pictures import Picture

NONE = "none"
FOLDER = "tracking"  # below the results folder; a folder a row
_NEEDS = {"tensorboard": "tensorboard", "wandb": "wandb"}
TRACKERS = (NONE, *_NEEDS)
_POINTS = 500  # of a curve, about
_PICTURES = 4
_FADED = 0.25  # of a patch that the last block does not use


class Sink(Protocol):
    """Where a tracker writes to."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of one step."""
        ...

    def text(self, name: str, text: str) -> None:
        """Write a text."""
        ...

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write a picture (h,w,3), uint8."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Writes event files; `tensorboard --logdir results/tracking` shows every row as a run."""

    def __init__(self, folder: Path, start: int, **_: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(folder), purge_step=start + 1 if start else None
        )  # what a killed process wrote beyond its checkpoint

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, name: str, text: str) -> None:
        """Write a text, as it stands."""
        self._writer.add_text(name, f"    {text}".replace("\n", "\n    "))  # indented: Markdown shows it as it is

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write a picture."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class Wandb:
    """Writes an offline run of Weights & Biases; `wandb sync FOLDER` sends it. With WANDB_MODE=online it is sent at once."""

    def __init__(self, folder: Path, start: int, key: str, name: str, config: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports] of no extra, see setup.cfg

        folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        plain = json.loads(json.dumps(dict(config), default=str))
        self._wandb = wandb
        self._run = wandb.init(project="tokenprune", id=key, name=name, dir=str(folder), config=plain, mode=mode, resume="allow")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of one step."""
        self._run.log(dict(values), step=step)

    def text(self, name: str, text: str) -> None:
        """Write a text into the run's summary."""
        self._run.summary[name] = text

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write a picture."""
        self._run.log({name: self._wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


SINKS: dict[str, Callable[..., Sink]] = {"tensorboard": TensorBoard, "wandb": Wandb}


class Tracker:
    """Follows one row; it writes nothing before there is something to write, and no failure of it ends the row.

    Args:
        make: Makes the sink, given the first step that is written.
        iterations: Of the training.
        batch: Images of a step, those of all processes.
    """

    def __init__(self, make: Callable[[int], Sink], iterations: int, batch: int) -> None:
        self._make, self._iterations, self._batch = make, iterations, batch
        self._every, self._sink = max(1, iterations // _POINTS), None
        self._losses: list[Mapping[str, float]] = []
        self._since, self._used, self._broken = time.perf_counter(), None, False

    def hear(self, outputs: "Outputs") -> None:
        """Take note of what an encoder used for a batch, not of its values; nothing is computed of it until it is written."""
        self._used = outputs.usage, outputs.state.prefix_count, outputs.state.positions

    def step(self, iteration: int, losses: Mapping[str, float], rates: Sequence[float]) -> None:
        """Take note of a step of training; the means over some steps are written together.

        Args:
            iteration: 0-based.
            losses: By name.
            rates: Learning rates of the groups of parameters.
        """
        self._losses.append(losses)
        if (iteration + 1) % self._every == 0 or iteration + 1 == self._iterations:
            self._guarded(lambda: self._write(iteration + 1, rates))

    def end(self, row: Mapping[str, Any], pictures: "Sequence[Picture]" = ()) -> None:
        """Write what a row ended with: metrics, costs, kept shares, its configuration and notes, and pictures."""
        self._guarded(lambda: self._write_row(row, pictures))

    def close(self) -> None:
        """Close the files."""
        if self._sink is not None:
            self._guarded(self._sink.close)
        self._sink = None

    def _write(self, step: int, rates: Sequence[float]) -> None:
        from tokenprune.measure.usage import kept_shares
        from tokenprune.training.curve import mean_losses

        means, count = mean_losses(self._losses), len(self._losses)
        values = {f"loss/{name.removeprefix('loss_')}": value for name, value in means.items()} | {"loss/total": sum(means.values())}
        values |= {f"learning_rate/{number}": rate for number, rate in enumerate(rates)}
        values["images_per_second"] = self._batch * count / max(time.perf_counter() - self._since, 1e-9)
        values |= _shares("kept_share", kept_shares(*self._used)) if self._used is not None else {}
        self._opened(step - count).scalars(values, step)
        self._losses, self._used, self._since = [], None, time.perf_counter()

    def _write_row(self, row: Mapping[str, Any], pictures: "Sequence[Picture]") -> None:
        sink, step = self._opened(0), self._iterations
        found = {f"{group}/{name}": value for group in ("metrics", "cost", "timing") for name, value in row.get(group, {}).items()}
        numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}
        sink.scalars(numbers | _shares("kept_share_at_the_end", row.get("cost", {}).get("kept_per_block", ())), step)
        sink.text("configuration", json.dumps(row.get("config", {}), indent=1, default=str))
        sink.text("notes", "\n".join([f"status: {row['status']} {row.get('reason', '')}".strip(), *row.get("notes", ())]))
        for picture in pictures:
            sink.image(f"tokens_of_the_last_block/{picture.number}", faded(picture), step)

    def _opened(self, start: int) -> Sink:
        if self._sink is None:
            self._sink = self._make(start)
        return self._sink

    def _guarded(self, write: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            write()
        except Exception as error:  # noqa: BLE001 whatever a library does: a curve less is better than a row less
            self._broken = True
            console.warn(f"tracking stopped: {type(error).__name__}: {error}; the row goes on")


def tracker_of(config: "Run", key: str, name: str) -> Tracker | None:
    """Return the tracker of a row that is to be made; None for none, and in all processes of a run but the main one.

    Args:
        config: The run.
        key: Its key.
        name: What it is called in messages.
    """
    if config.tracking == NONE or not distributed.is_main():
        return None
    folder = tracking_folder(config.results_dir, key, name)

    def make(start: int) -> Sink:
        if start == 0:
            shutil.rmtree(folder, ignore_errors=True)  # of the same row, made before
        return SINKS[config.tracking](folder, start, key=key, name=name, config=config)

    training = config.training
    return Tracker(make, int(training.get("iterations", 0) or 0), int(training.get("batch_size", 1) or 1))


@contextmanager
def tracked(config: "Run", key: str, name: str, pruned: Any) -> Iterator[Tracker | None]:
    """Follow a row that is made: give its tracker, and close that whatever happens; the arguments are those of `tracker_of`.

    Args:
        config, key, name: See `tracker_of`.
        pruned: The PrunedViT whose passes are heard; None for a model without one.
    """
    tracker = tracker_of(config, key, name)
    if tracker is not None and pruned is not None:
        pruned.hearer = tracker.hear
    try:
        yield tracker
    finally:
        if tracker is not None:
            tracker.close()


def tracking_folder(results: str, key: str, name: str) -> Path:
    """Return the folder of a row's files: its name in letters, then its key."""
    words = re.sub(r"[^\w.]+", "-", name, flags=re.ASCII).strip("-")
    return Path(at_home(results)) / FOLDER / f"{words}-{key}"


def tracking_problems(tracking: Any) -> list[str]:
    """Return why a value of `tracking` is none, [] if it is one."""
    return [] if tracking in TRACKERS else [f"tracking is {tracking!r}; allowed: {', '.join(TRACKERS)}"]


def check_installed(tracking: str) -> None:
    """Check that what a tracker writes with is there.

    Raises:
        MissingDependency: It is not installed.
    """
    package = _NEEDS.get(tracking)
    if package is not None and find_spec(package) is None:
        raise MissingDependency(f"tracking={tracking} needs {package}, which is not installed: pip install {_extra(package)}")


def pictures_of(task: "Task", model: Any, config: "Run") -> "list[Picture]":
    """Return the first validation pictures as a judged model sees them, [] for a task that shows none."""
    try:
        return list(task.pictures(model, config, range(_PICTURES), predict=False))
    except TokenPruneError:
        return []


def faded(picture: "Picture") -> np.ndarray:
    """Return the pixels of a picture (h,w,3), uint8; patches that the last block does not use are faded to white."""
    from tokenprune.tasks.pictures import at_pixels

    used = at_pixels(picture.used[-1].cpu().numpy(), picture.patch, *picture.pixels.shape[:2])[..., None]
    return np.where(used, picture.pixels, 255 - (_FADED * (255 - picture.pixels.astype(np.float32))).astype(np.uint8)).astype(np.uint8)


def _shares(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}/block_{number:02d}": float(value) for number, value in enumerate(values)}


def _extra(package: str) -> str:
    return "'tokenprune[tracking]'" if package == "tensorboard" else package
