"""Measures every registered selector that drops tokens, as published: the part of its saved MACs that becomes time.

These are facts without goals.
"""

from functools import partial

import torch
from torch import nn

from tokenprune.cli.bench.fixed import ideals, sliced
from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.ragged import held
from tokenprune.cli.bench.router import PLAN
from tokenprune.cli.bench.timing import interleaved, ratio
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import get, names


def measure(setup: Setup) -> list[Finding]:
    """Return speed-up / MACs ratio, and time / time of an oracle that slices as many tokens, for each deployed selector and batch size."""
    vit, found = setup.model(setup.small), []
    models, dense = published(vit), prune(vit)
    for batch in setup.batches:
        images = torch.randn(batch, *vit.default_cfg["input_size"])
        ideal = ideals(models, dense, images)
        calls = {"dense": partial(dense, images)}
        for name, model in models.items():
            with torch.inference_mode():
                used = held(model.encode(images).usage)
            calls |= {name: partial(model, images), f"{name} oracle": partial(sliced, dense, used, images)}
        seconds = interleaved(calls, setup.rounds, f"every selector, batch {batch}")
        for name in models:
            case = f"{name}, batch {batch}"
            found.append(Finding("published: speed-up / MACs ratio", case, ratio(seconds["dense"], seconds[name], 1 / ideal[name]), None))
            found.append(Finding("published: time / slice oracle", case, ratio(seconds[name], seconds[f"{name} oracle"]), None))
    return found


def published(vit: nn.Module) -> dict[str, PrunedViT]:
    """Return each selector's deployed model, as its paper has it. Selectors that only mask are left out."""
    return {name: as_published(vit, name) for name in names("selector") if get("selector", name).saves_computation}


def as_published(vit: nn.Module, name: str) -> PrunedViT:
    """Return the deployed model of a selector, under the treatment and schedule that it declares.

    A selector whose own schedule is for another grid than this model's gets the schedule of the routers.
    """
    try:
        return prune(vit, name).deploy()
    except InvalidSchedule:
        return prune(vit, name, schedule=PLAN).deploy()
