"""Measures each method against the way in which its authors' code computes a block.

The ways are written here from the papers and from what the released codes do in a block, step by step and no more: which attention they
use (explicit products where they need the weights or wrote it so, the fused one where they call it), which sorts, gathers and
concatenations. They share the weights of the engine's model, and tests hold that they give the same logits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenprune.cli.bench import groupings, mergers
from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.sampling import by_distances
from tokenprune.cli.bench.steps import Seen, attention, embedded, explicit, fed, gathered, matching, projected, selected, walked
from tokenprune.cli.bench.timing import interleaved, ratio
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.engine.schedule import Budget

SAME = 0.98  # least ratio of a program to itself: 1 would be met by chance
ALIKE = ("no selector", "representation_shift", "frequency")  # both sides are timm's own blocks, and the least that the formula takes
Way = Callable[[PrunedViT, Tensor], Tensor]
MODELS: dict[str, tuple[Any, Any, dict[str, Any] | None]] = {
    "no selector": (None, None, None),
    "evit": ("evit", "fuse", None),
    "topk": ("topk", "remove", None),
    "tome r 8": ("tome", None, {"remove": 8}),
    "tome r 13": ("tome", None, None),
    "dynamicvit": ("dynamicvit", "remove", None),
    "cropr": ("cropr", "remove", {"name": "per_block", "remove": 8}),
    "cropr with Last Layer Fusion": ("cropr", "last_layer_fusion", {"name": "per_block", "remove": 8}),
    "evo_vit": ("evo_vit", "reactivate", None),
    "ats": ("ats", "remove", None),
    "diffrate": ({"name": "diffrate", "variant": "released"}, None, None),
    "ppt": ("ppt", None, None),
    "pitome": ("pitome", None, None),
    "tofu": ("tofu", {"name": "mlerp", "variant": "released"}, None),
    "mctf": ("mctf", None, None),
    "algm": ({"name": "algm", "variant": "released", "threshold": 0.0}, None, None),  # of random tokens, whose cosines lie about 0
    "atc, on the host": ("atc", None, None),
    "kmedoids, a loop on the host": ({"name": "kmedoids", "variant": "released"}, None, None),
    "representation_shift": ("representation_shift", None, None),
    "frequency": ("frequency", None, None),
}


def measure(setup: Setup) -> list[Finding]:
    """Return the time of the authors' way over the engine's, for each method and batch size."""
    vit, found = setup.model(setup.small), []
    models = {name: prune(vit, *spec).eval().deploy() for name, spec in MODELS.items()}
    for batch in setup.batches:
        images, calls = torch.randn(batch, *vit.default_cfg["input_size"]), {}
        for name, model in models.items():
            calls |= {name: partial(model, images), f"{name}, authors": partial(way_of(name), model, images)}
        seconds = interleaved(calls, setup.rounds, f"authors' ways, batch {batch}")
        least = {name: (SAME if name in ALIKE else 1.0) if batch >= 8 else 0.95 for name in models}
        found += [
            Finding("authors' way / ours", f"{n}, batch {batch}", ratio(seconds[f"{n}, authors"], seconds[n]), least[n], at_least=True)
            for n in models
        ]
    return found


def way_of(name: str) -> Way:
    """Return the authors' way of a model of `MODELS`; that of no selector is timm's own."""
    return {
        "no": plain,
        "evit": evit,
        "topk": topk,
        "tome": tome,
        "dynamicvit": dynamicvit,
        "cropr": cropr,
        "evo_vit": evo_vit,
        "ats": ats,
        "diffrate": mergers.diffrate,
        "ppt": mergers.ppt,
        "pitome": mergers.pitome,
        "tofu": mergers.tofu,
        "mctf": groupings.mctf,
        "algm": groupings.algm,
        "atc,": groupings.atc,
        "kmedoids,": groupings.kmedoids,
        "representation_shift": representation_shift,
        "frequency": frequency,
    }[name.split()[0]]


def plain(model: PrunedViT, images: Tensor) -> Tensor:
    """Return the logits of the timm model itself."""
    return model.backbone(images)


def evit(model: PrunedViT, images: Tensor) -> Tensor:
    """EViT: explicit attention everywhere, two gathers by expanded indices, the complement of the kept ones by a scatter and a sort."""

    def act(x: Tensor, size: Tensor, seen: Seen, budget: Budget) -> tuple[Tensor, Tensor]:
        row, rest = seen.weights[:, :, 0, 1:].mean(1), x[:, 1:]
        kept = row.topk(budget.keep, dim=1).indices
        marked = torch.arange(row.shape[1], device=x.device).expand_as(row).scatter(1, kept, 0)
        gone = marked.sort(dim=1).values[:, kept.shape[1] :]
        fused = (gathered(rest, gone) * row.gather(1, gone).unsqueeze(-1)).sum(1, keepdim=True)
        return torch.cat([x[:, :1], gathered(rest, kept), fused], 1), size

    return walked(model, images, act)


def topk(model: PrunedViT, images: Tensor) -> Tensor:
    """Top-K of TokenReduction: explicit attention everywhere, one gather by expanded indices."""

    def act(x: Tensor, size: Tensor, seen: Seen, budget: Budget) -> tuple[Tensor, Tensor]:
        kept = seen.weights[:, :, 0, 1:].mean(1).topk(budget.keep, dim=1).indices
        return torch.cat([x[:, :1], gathered(x[:, 1:], kept)], 1), size

    return walked(model, images, act)


def tome(model: PrunedViT, images: Tensor) -> Tensor:
    """ToMe: explicit attention with log(size), a matching, and two merges by gather and scatter_reduce, in every block."""
    x, vit, budgets = embedded(model, images)
    size: Tensor | None = None
    for number, block in enumerate(vit.blocks):
        out, _, keys, _ = explicit(block.attn, block.norm1(x), None if size is None else size[..., 0].log())
        x = x + block.drop_path1(out)
        if number in budgets:
            merged = matching(keys.mean(1), budgets[number].live - budgets[number].keep)
            size = torch.ones_like(x[..., :1]) if size is None else size
            x, size = merged(x * size), merged(size)
            x = x / size
        x = x + fed(block, x)
    return vit.forward_head(vit.norm(x))


def dynamicvit(model: PrunedViT, images: Tensor) -> Tensor:
    """DynamicViT at test time: a predictor, a full sort, a flat selection of tokens and of its policy; explicit attention everywhere."""
    x, vit, budgets = embedded(model, images)
    policy = torch.ones(*x[:, 1:, :1].shape)
    for number, block in enumerate(vit.blocks):
        if number in budgets:
            selector: Any = model.selectors[str(number)]
            score = selector.gate(x[:, 1:], policy.squeeze(-1))[..., 0]
            kept = score.argsort(dim=1, descending=True)[:, : budgets[number].keep]
            with_cls = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], 1)
            x, policy = selected(x, with_cls), selected(policy, kept)
        out, _, _, _ = explicit(block.attn, block.norm1(x))
        x = x + block.drop_path1(out)
        x = x + fed(block, x)
    return vit.forward_head(vit.norm(x))


def cropr(model: PrunedViT, images: Tensor) -> Tensor:
    """Cropr: timm's own blocks, so fused attention; a full sort, and gathers of kept and, for Last Layer Fusion, of dropped tokens."""
    x, vit, budgets = embedded(model, images)
    dropped: list[Tensor] = []
    for number, block in enumerate(vit.blocks):
        if number in budgets:
            selector: Any = model.selectors[str(number)]
            score = (selector.ask(selector.query) @ x[:, 1:].transpose(1, 2)).sum(1)
            order, keep = score.argsort(dim=1, descending=True), budgets[number].keep
            if model.treatment.revive == "last":
                dropped.append(gathered(x[:, 1:], order[:, keep:]))
            x = torch.cat([x[:, :1], gathered(x[:, 1:], order[:, :keep])], 1)
        if dropped and number == len(vit.blocks) - 1:
            x = torch.cat([x, *dropped], 1)
        x = block(x)
    return vit.forward_head(vit.norm(x))


def evo_vit(model: PrunedViT, images: Tensor) -> Tensor:
    """Evo-ViT: before each deciding block all tokens are sorted by their attention; the first are computed, the others put behind them."""
    x, vit, budgets = embedded(model, images)
    first, keep, running = min(budgets), x.shape[1] - 1, torch.zeros(*x[:, 1:, 0].shape)
    for number, block in enumerate(vit.blocks):
        if number in budgets:
            order, keep = running.argsort(dim=1, descending=True), budgets[number].keep
            x = torch.cat([x[:, :1], gathered(x[:, 1:], order)], 1)
            running = running.gather(1, order)
        fast, rest = x[:, : keep + 1], x[:, keep + 1 :]
        out, weights, _, _ = explicit(block.attn, block.norm1(fast))
        now = weights[:, :, 0, 1:].sum(1)
        now = now if number < first else 0.5 * running[:, :keep] + 0.5 * now
        running = torch.cat([now, running[:, keep:]], 1)
        fast = fast + block.drop_path1(out)
        x = torch.cat([fast + fed(block, fast), rest], 1)
    return vit.forward_head(vit.norm(x))


def ats(model: PrunedViT, images: Tensor) -> Tensor:
    """ATS: explicit attention with a mask everywhere, sampling by a matrix of distances, rows of the weights gathered for each head.

    Padding lies among the scores that are sampled, so that in a batch an image's tokens depend on the other images. The logits are the
    engine's for one image, where the matrix is exact (up to 25 positions).
    """
    x, vit, budgets = embedded(model, images)
    real = torch.ones(*x.shape[:2], dtype=torch.bool)
    for number, block in enumerate(vit.blocks):
        hidden = torch.zeros(*real.shape).masked_fill(~real, float("-inf"))
        normed = block.norm1(x)
        weights, _, v = attention(block.attn, normed, hidden)
        if number in budgets:
            score = (weights[:, :, 0].sum(1) * v.transpose(1, 2).flatten(2).norm(dim=-1))[:, 1:].masked_fill(~real[:, 1:], 0.0)
            keep = by_distances(score / score.sum(1, keepdim=True), budgets[number].keep) & real[:, 1:]
            found = [torch.cat([torch.zeros(1, dtype=torch.long), image.nonzero().squeeze(1) + 1]) for image in keep]
            rows = torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)
            real, rows = rows >= 0, rows.clamp(min=0)
            weights = weights.gather(2, rows[:, None, :, None].expand(-1, weights.shape[1], -1, weights.shape[3]))
            x = gathered(x, rows)
        x = x + block.drop_path1(projected(block.attn, weights, v))
        x = x + fed(block, x)
    return vit.forward_head(vit.norm(x))


def representation_shift(model: PrunedViT, images: Tensor) -> Tensor:
    """Representation shift, from its formula: fused attention, the norms of what a block changed, a top-k and one gather."""
    x, vit, budgets = embedded(model, images)
    entered = x
    for number, block in enumerate(vit.blocks):
        if number in budgets:
            kept = (x - entered)[:, 1:].norm(dim=-1).topk(budgets[number].keep, dim=1).indices
            x = torch.cat([x[:, :1], gathered(x[:, 1:], kept)], 1)
        entered, x = x, block(x)
    return vit.forward_head(vit.norm(x))


def frequency(model: PrunedViT, images: Tensor) -> Tensor:
    """Frequency-aware reduction, from its formula: fused attention, the norms of the high-pass part, a sort, and the mean of the others."""
    x, vit, budgets = embedded(model, images)
    for number, block in enumerate(vit.blocks):
        if number in budgets:
            rest, keep = x[:, 1:], budgets[number].keep
            order = (rest - rest.mean(1, keepdim=True)).norm(dim=-1).argsort(dim=1, descending=True)
            mean = gathered(rest, order[:, keep:]).mean(1, keepdim=True)
            x = torch.cat([x[:, :1], gathered(rest, order[:, :keep]), mean], 1)
        x = block(x)
    return vit.forward_head(vit.norm(x))
