"""Measures the overhead of Cropr's deployed router against a random choice and against one that costs nothing (Cropr Figure 3b)."""

from collections.abc import Iterator
from functools import cache, partial

import timm

from tokenprune.cli.bench.router import routers
from tokenprune.cli.gpu.cases import Case, Row, Setup, Unsupported
from tokenprune.cli.gpu.throughput import pictures
from tokenprune.engine.model import PrunedViT
from tokenprune.measure.throughput import ThroughputPlan, over_batches

SMALL = {"embed_dim": 24, "num_heads": 3}  # a tiny set-up keeps the 196 positions of the plan


def cases(setup: Setup) -> Iterator[Case]:
    """Yield a case for each batch size, as it is and as a CUDA graph."""
    models = cache(partial(_models, setup))
    for batch in setup.batches:
        for mode in ("eager", "graph"):
            yield Case(f"batch {batch}, {mode}", partial(measured, models, setup, batch, mode))


def _models(setup: Setup) -> dict[str, PrunedViT]:
    size = SMALL if setup.options else {}
    return {name: model.to(setup.device) for name, model in routers(timm.create_model(setup.vit, **size).eval()).items()}


def measured(models: "partial[dict[str, PrunedViT]]", setup: Setup, batch: int, mode: str) -> list[Row]:
    """Return the time of Cropr over that of each other choice, both in turn.

    Raises:
        Unsupported: A CUDA graph on another device.
    """
    if mode == "graph" and setup.device.type != "cuda":
        raise Unsupported("a CUDA graph needs CUDA")
    plan, made = ThroughputPlan((batch,), setup.rounds, warmup=3, dtype="bfloat16", graphs=mode == "graph"), models()
    sides, rows = made["cropr"].backbone.patch_embed.img_size, []
    for other in ("random", "free"):
        pair = (made["cropr"], made[other])
        found = over_batches(pair, lambda size, number: pictures(setup.device, size, number, sides), plan, setup.device)
        gain = found["throughput_speedup"][0]
        times = {"images_per_second": found["throughput_mean"][0], "time_of_cropr": None if gain is None else 1 / gain}
        short = {} if gain is not None else {"status": "oom", "reason": f"out of memory at batch {batch}"}
        rows.append({"against": other, "batch": batch, "mode": mode, **times, "note": found["throughput_note"], **short})
    return rows
