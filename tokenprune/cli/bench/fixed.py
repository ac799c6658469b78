"""Measures goals of methods with a fixed count: efficiency, distance to an oracle that only slices, and the engine's own cost."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import interleaved, ratio
from tokenprune.engine.execution import BlockUsage
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.measure.macs import encoder_macs

METHODS: dict[str, dict[str, Any]] = {
    "evit": {},
    "dynamicvit": {},
    "tome": {},
    "topk": {},
    "random": {},
    "cropr": {"schedule": {"name": "per_block", "remove": 16}},
    "evo_vit": {},
}
SLICED = ("evit", "cropr")  # the oracle goal was set for these: no predictor, counts that only fall


def measure(setup: Setup) -> list[Finding]:
    """Return the efficiency of every method, its time over the slice oracle, and the wrapper's own cost, for each batch size."""
    vit = setup.model(setup.small)
    models = {name: prune(vit, name, **options) for name, options in METHODS.items()}
    falling = {name: prune(vit, name, "remove", **METHODS[name]) for name in SLICED}
    wrapped, found = prune(vit), []
    for batch in setup.batches:
        images = torch.randn(batch, *vit.default_cfg["input_size"])
        ideal = ideals(models, wrapped, images)
        calls = {"dense": partial(vit, images), "wrapped": partial(wrapped, images)}
        calls |= {name: partial(model, images) for name, model in models.items()}
        for name, model in falling.items():
            with torch.inference_mode():
                used = model.encode(images).usage
            calls |= {f"{name} falling": partial(model, images), f"{name} oracle": partial(sliced, model, used, images)}
        seconds, case = interleaved(calls, setup.rounds, f"fixed counts, batch {batch}"), f"batch {batch}"
        found += [
            Finding(
                "speed-up / MACs ratio", f"{n}, {case}", ratio(seconds["dense"], seconds[n], 1 / ideal[n]), _least(n, batch), at_least=True
            )
            for n in models
        ]
        found += [
            Finding("time / slice oracle", f"{n}, {case}", ratio(seconds[f"{n} falling"], seconds[f"{n} oracle"]), 1.10) for n in falling
        ]
        found.append(Finding("no selector / timm", case, ratio(seconds["wrapped"], seconds["dense"]), 1.02))
    return found


def _least(name: str, batch: int) -> float:
    """Return the least share of its MACs ratio that a method has to gain.

    ToMe and Cropr decide in each block, and most of what they do there has no MACs: experiments/benchmarks/README.md has their share.
    """
    if batch >= 8:
        return 0.92 if name == "tome" else 0.97
    return {"tome": 0.70, "cropr": 0.78}.get(name, 0.82)


def ideals(models: dict[str, PrunedViT], dense: PrunedViT, images: Tensor) -> dict[str, float]:
    """Return the factor by which each model takes fewer MACs than the dense one."""
    with torch.inference_mode():
        total = {name: encoder_macs(m, m.encode(images[:1]), head=True).total for name, m in {**models, "": dense}.items()}
    return {name: total[""] / total[name] for name in models}


def sliced(model: PrunedViT, used: Sequence[BlockUsage], images: Tensor) -> Tensor:
    """Return logits of an oracle with the counts of `used`: it keeps the first tokens and pays nothing for choosing them."""
    x = model.start(images).sequence()
    for block, counts in zip(model.family.blocks, used, strict=True):
        x = x[:, : int(counts.attended.float().mean().round())]
        x = x + block.attend(block.project(x))
        x = x[:, : int(counts.fed.float().mean().round())]
        x = x + block.feed(x)
    x, P = model.family.norm(x), model.prefix_tokens
    return model.family.classify(x[:, :P], x[:, P:], None)
