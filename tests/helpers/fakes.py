"""A task that takes milliseconds and fails on demand, and the command line run in this process."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tokenprune import registry
from tokenprune.runs.results import read_result
from tokenprune.tasks.base import Task
from tokenprune.tasks.encoder import build_pruned

# One row is cheap: 4 tokens, 4 channels. `scale=smoke` and `task.name=fake` do the rest.
TINY = [
    "scale=smoke",
    "task.name=fake",
    "backbone.img_size=16",
    "backbone.embed_dim=12",
    "training.iterations=1",
    "dense.training.iterations=1",
]


class FakeTask(Task):
    """Trains the encoder to be small. The selector decides what goes wrong: `random` raises, `variance` is NaN, `topk` is out of memory."""

    name = "fake"
    gives = ()
    built: list[str] = []
    on_batch: Callable[[torch.Tensor], None] = staticmethod(lambda batch: None)

    def build_model(self, cfg: dict[str, Any]) -> nn.Module:
        selector = cfg["selector"]["name"]
        FakeTask.built.append(selector)
        if selector == "random":
            raise KeyError("a bug somewhere")
        if selector == "topk":
            raise torch.OutOfMemoryError("CUDA out of memory")
        model = nn.Module()
        model.pruned, model.poison = build_pruned(cfg), selector == "variance"
        return model

    def train_batches(self, cfg: dict[str, Any], start: int) -> Iterator[torch.Tensor]:
        while True:
            yield torch.ones(2, 3, 16, 16)

    def losses(self, model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        FakeTask.on_batch(batch)
        return {"loss": model.pruned.encode(batch).map.square().mean() * (float("nan") if model.poison else 1.0)}

    def evaluate(self, model: nn.Module, cfg: dict[str, Any]) -> dict[str, float]:
        return {"ap_box": 40.0, "ap_box_se": 0.8, "ap_mask": 33.0, "ap_mask_se": 0.9}

    def cost(self, model: nn.Module, cfg: dict[str, Any]) -> dict[str, Any]:
        parts = {f"gmac_{n}": 1.0 for n in ("linear", "attention", "norm", "selector", "total")}
        speed = {"seconds_encoder": 0.01, "seconds_total": 0.02, "speedup_encoder": 2.0, "seconds_note": "made up"}
        return {**parts, "kept_share": 0.7, "kept_per_block": [4.0] * 12, **speed}


class Killed(Exception):
    """What `kill_at` raises."""


def kill_at(iteration: int) -> Callable[[nn.Module, int], None]:
    """A `before_step` that ends a training before an iteration."""

    def hook(model: nn.Module, i: int) -> None:
        if i == iteration:
            raise Killed

    return hook


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the registrations of a test. What ships is loaded before, because a module registers but once in a process."""
    for kind in registry.BUILTIN:
        registry.names(kind)
    monkeypatch.setattr(registry, "_plugins", {kind: dict(found) for kind, found in registry._plugins.items()})
    monkeypatch.setattr(registry, "_loaded", set(registry._loaded))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTask]]:
    """Make `task.name=fake` known for one test; one thread, because threads cost more than they bring at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    registry.names("task")
    monkeypatch.setitem(registry._plugins["task"], "fake", FakeTask)
    monkeypatch.setattr(FakeTask, "on_batch", FakeTask.on_batch)
    FakeTask.built.clear()
    yield FakeTask
    torch.set_num_threads(threads)


def newest_tables(results: Path) -> Path:
    """Return the folder of the reports that were written last in a results folder."""
    return max((results / "tables").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


class Cli:
    """`python -m tokenprune.run ...` in this process, in an empty folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.capsys, self.monkeypatch = folder, capsys, monkeypatch
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit status, standard output and standard error."""
        from tokenprune.run import main

        self.monkeypatch.setattr(sys, "argv", ["run", *arguments])
        self.capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *self.capsys.readouterr())

    def tables(self) -> Path:
        """Return the folder of the reports that were written last."""
        return newest_tables(self.folder / "results")

    def rows(self) -> list[dict[str, Any]]:
        return [read_result(path) for path in sorted(self.folder.glob("results/rows/*/result.json"))]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, in an empty folder."""
    return Cli(tmp_path, capsys, monkeypatch)


def row(**changes: Any) -> dict[str, Any]:
    """A valid row; keyword arguments replace fields, `metrics` and `cost` are updated."""
    from tokenprune.utils.environment import environment

    cost = {f"gmac_{n}": 1.0 for n in ("linear", "attention", "norm", "selector")} | {"gmac_total": 4.0, "kept_share": 0.6}
    cost |= {"kept_per_block": [8.0, 4.0], "seconds_encoder": 0.010, "seconds_total": 0.020, "speedup_encoder": 2.0}
    cost |= {"seconds_note": "made up"}
    base = {
        "schema": 1, "status": "ok", "reason": "", "key": "0" * 16, "config": {"schedule": {"name": "stages", "keep_rate": 0.7}},
        "label": "EViT", "method": "evit", "treatment": "remove", "scale": "demo", "task": "detection", "data": "shapes", "seed": 0,
        "metrics": {"ap_box": 40.0, "ap_box_se": 0.6, "ap_mask": 30.0, "ap_mask_se": 0.8}, "cost": cost, "cls": "learned",
        "execution": "auto", "environment": environment(), "timing": {"train_s": 1.0, "eval_s": 1.0, "total_s": 2.0}, "notes": [],
    }  # fmt: skip
    for name in ("metrics", "cost", "environment"):
        base[name] = {**base[name], **changes.pop(name, {})}
    return {**base, **changes}
