"""Measures images a second of every method and its dense model: as it is, replayed as a CUDA graph, and compiled."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tokenprune.cli.bench.every import as_published
from tokenprune.cli.gpu.cases import Case, Row, Setup, Unsupported
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.measure.macs import encoder_macs
from tokenprune.measure.memory import peak_memory
from tokenprune.measure.replayed import Replayed
from tokenprune.measure.speed import precision
from tokenprune.measure.throughput import ThroughputPlan, over_batches
from tokenprune.registry import get, names

COMPILE_SECONDS = 60.0  # least seconds to begin a compilation
COMPILED_BATCHES = 2  # the first batch sizes alone are compiled for: each is a compilation of its own
FIRST = ("cropr", "evit", "tome", "dynamicvit", "topk", "svit", "ats", "evo_vit")  # the methods that the papers compare
_MEBI = 2**20


def cases(setup: Setup) -> Iterator[Case]:
    """Yield the cases of passes as they are and of CUDA graphs, batch size after batch size."""
    models = _Models(setup)
    for batch in setup.batches:
        for name in methods(setup):
            for mode in ("eager", "graph"):
                yield Case(f"{name}, batch {batch}, {mode}", partial(measured, models, name, batch, mode))


def compiled_cases(setup: Setup) -> Iterator[Case]:
    """Yield the cases of compiled models."""
    models, needs = _Models(setup), COMPILE_SECONDS if setup.backend == "inductor" else 0.0
    for batch in setup.batches[:COMPILED_BATCHES]:
        for name in methods(setup):
            yield Case(f"{name}, batch {batch}, compile", partial(measured, models, name, batch, "compile"), needs)


def methods(setup: Setup) -> list[str]:
    """Return the selectors whose speed is measured, those of the papers first."""
    every = [name for name in names("selector") if get("selector", name).saves_computation]
    return list(setup.methods) or [*(name for name in FIRST if name in every), *(name for name in every if name not in FIRST)]


class _Models:
    """Makes models of one backbone with random weights, which are as fast as trained ones; keeps the one that was asked for last."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.method = lru_cache(maxsize=1)(self._method)

    @cached_property
    def dense(self) -> PrunedViT:
        """The model with nothing dropped."""
        return prune(timm.create_model(self.setup.vit, **self.setup.options)).eval().to(self.setup.device)

    def _method(self, name: str) -> PrunedViT:
        """Return the deployed model of a selector."""
        return as_published(self.dense.backbone, name).to(self.setup.device)

    def images(self, size: int, number: int) -> Tensor:
        """Return batch `number` of a size."""
        return pictures(self.setup.device, size, number, self.dense.backbone.patch_embed.img_size)


def pictures(device: torch.device, size: int, number: int, sides: Sequence[int]) -> Tensor:
    """Return batch `number` of random pictures (size,3,h,w) on a device."""
    generator = torch.Generator(device).manual_seed(number)
    return torch.randn(size, 3, *sides, generator=generator, device=device)


def measured(models: _Models, name: str, batch: int, mode: str) -> list[Row]:
    """Return the throughput of a method beside that of its dense model, in turn, with the share of its saved MACs that became time.

    Raises:
        Unsupported: The mode does not fit the device or the method.
    """
    setup, model, dense = models.setup, models.method(name), models.dense
    if mode == "graph" and setup.device.type != "cuda":
        raise Unsupported("a CUDA graph needs CUDA")
    plan = ThroughputPlan((batch,), setup.rounds, warmup=3, dtype="bfloat16", graphs=mode == "graph")
    runs: tuple[nn.Module, nn.Module] = (model, dense)
    if mode == "compile":
        runs = (compiled(model, setup.backend), compiled(dense, setup.backend))
    elif mode == "graph" and any(selector.counts_vary for selector in model.selectors.values()):
        runs = (Replayed(model), dense)
    found = over_batches(runs, models.images, plan, setup.device)
    if found["throughput_mean"][0] is None:
        raise torch.OutOfMemoryError(f"out of memory at batch {batch}")
    if mode == "graph" and "CUDA graphs" not in found["throughput_note"]:
        raise Unsupported("the pass could not be captured: it asks the device for a number, or one of its operations cannot be replayed")
    ideal, speedup = _ideal(model, dense, models.images(1, 0)), found["throughput_speedup"][0]
    return [
        {
            "method": name, "batch": batch, "mode": mode, "images_per_second": found["throughput_mean"][0],
            "sd": found["throughput_sd"][0], "speedup": speedup, "macs_ratio": ideal, "efficiency": speedup / ideal,
            **_memory(model, dense, models.images(batch, 0), setup.device),
            **({"missed": runs[0].missed} if isinstance(runs[0], Replayed) else {}), "note": found["throughput_note"],
        }
    ]  # fmt: skip


def compiled(model: PrunedViT, backend: str) -> nn.Module:
    """Return a compiled model: by `tokenprune.compile`, which chooses what fits the method, where this version has it."""
    import tokenprune

    torch.compiler.reset()
    ours: Callable[..., Any] | None = getattr(tokenprune, "compile", None)
    return ours(model) if callable(ours) and backend == "inductor" else torch.compile(model, backend=backend)  # type: ignore[return-value]


def _ideal(model: PrunedViT, dense: PrunedViT, image: Tensor) -> float:
    """Return the factor by which a model takes fewer MACs than the dense one, head included."""
    with torch.inference_mode():
        mine, full = (encoder_macs(m, m.encode(image), head=True).total for m in (model, dense))
    return full / mine


def _memory(model: nn.Module, dense: nn.Module, images: Tensor, device: torch.device) -> Row:
    """Return the most memory that a pass holds, in MiB and as a share of the dense model's."""
    with precision(device, "bfloat16"):
        mine, full = (peak_memory(partial(m, images), device) for m in (model, dense))
    return {"memory_mib": mine / _MEBI, "memory_of_dense": mine / full}
