"""Measures goals at the size of detection images: the cost of remembering dropped tokens and of bringing them back."""

from functools import partial

import torch

from tokenprune.cli.bench.fixed import sliced
from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import interleaved, ratio
from tokenprune.engine.prune import prune

TREATMENTS = ("remove", "preserve", "reactivate")


def measure(setup: Setup) -> list[Finding]:
    """Return preserve / remove, reactivate / remove (equal counts) and remove / slice oracle at the size of detection images."""
    vit = setup.model(setup.large, dynamic_img_size=True)
    patch = vit.patch_embed.patch_size[0]
    positions = (setup.pixels[0] // patch) * (setup.pixels[1] // patch)
    models = {t: prune(vit, "cropr", t, {"name": "stages"}, positions=positions).deploy() for t in TREATMENTS}
    images = torch.randn(1, 3, *setup.pixels)
    with torch.inference_mode():
        used = models["remove"].encode(images).usage
    calls = {name: partial(model.encode, images) for name, model in models.items()}
    seconds = interleaved({**calls, "oracle": partial(sliced, models["remove"], used, images)}, setup.rounds, f"N={positions}")
    pairs = (("preserve", "remove", 1.01), ("reactivate", "remove", 1.02), ("remove", "oracle", 1.02))
    return [Finding(f"{a} / {b}", f"N={positions}, batch 1", ratio(seconds[a], seconds[b]), limit) for a, b, limit in pairs]
