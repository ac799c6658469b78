"""Measures goals of Cropr's deployed router: as fast as a random choice, and close to a free one (Cropr section 3.4, Figure 3b)."""

from functools import partial

import torch
from torch import nn

from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.timing import interleaved, ratio
from tokenprune.engine.decision import Decision
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.observation import Observation
from tokenprune.engine.prune import prune
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Selector

PLAN = {"name": "per_block", "remove": 16}  # of the 196 tokens of a model of 12 blocks
LIMITS = {"random": 1.03, "free": 1.05}


class FirstTokens(Selector):
    """Keeps the first slots: a choice that costs nothing, in the same engine."""

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Keep the first `budget.keep` slots, all of which are live."""
        first = torch.arange(seen.live.shape[1], device=seen.live.device) < budget.keep
        slots = torch.arange(budget.keep, device=seen.live.device)
        return Decision(first.expand_as(seen.live), slots=slots.expand(len(seen.live), -1))


def measure(setup: Setup) -> list[Finding]:
    """Return Cropr's time over that of random and of free choices, 16 tokens a block and Last Layer Fusion, for each batch size."""
    vit = setup.model(setup.small)
    models, found = routers(vit), []
    for batch in setup.batches:
        images = torch.randn(batch, *vit.default_cfg["input_size"])
        calls = {name: partial(model, images) for name, model in models.items()}
        seconds, case = interleaved(calls, setup.rounds, f"routers, batch {batch}"), f"batch {batch}"
        found += [Finding(f"Cropr / {n} choice", case, ratio(seconds["cropr"], seconds[n]), limit) for n, limit in LIMITS.items()]
    return found


def routers(vit: nn.Module) -> dict[str, PrunedViT]:
    """Return a model with Cropr's deployed router, one with a random choice and one with a free one.

    At test time the random baseline hashes each image, which takes longer than Cropr's choice. The timed baseline draws plain noise
    instead.
    """
    models = {name: prune(vit, name, "last_layer_fusion", PLAN).deploy() for name in ("cropr", "random")}
    for selector in models["random"].selectors.values():
        selector.train()
    return {**models, "free": freely(prune(vit, "random", "last_layer_fusion", PLAN).eval())}


def freely(model: PrunedViT) -> PrunedViT:
    """Return the model with choices that cost nothing in place of its own."""
    for number, selector in model.selectors.items():
        model.selectors[number] = FirstTokens(selector.context)
    return model
