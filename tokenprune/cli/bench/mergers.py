"""The authors' ways of methods that merge in a block: DiffRate, PPT, PiToMe and ToFu; see `authors`."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.cli.bench.steps import Seen, embedded, explicit, fed, gathered, matching, walked
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.schedule import Budget

_MARGIN = 0.75


def diffrate(model: PrunedViT, images: Tensor) -> Tensor:
    """DiffRate: every block sorts all tokens by the class token's attention, cuts, and merges into means by scatter_reduce."""
    x, vit, budgets = embedded(model, images)
    size = torch.ones_like(x[..., :1])
    for number, block in enumerate(vit.blocks):
        out, seen, _, _ = explicit(block.attn, block.norm1(x), size[..., 0].log())
        x = x + block.drop_path1(out)
        order = seen[:, :, 0, 1:].mean(1).sort(dim=1, descending=True).indices
        order = torch.cat([torch.zeros_like(order[:, :1]), order + 1], 1)
        x, size = gathered(x, order), gathered(size, order)
        if number in budgets:
            left, keep = 1 + (budgets[number].between or budgets[number].live), 1 + budgets[number].keep
            x, size = x[:, :left], size[:, :left]
            if keep < left:
                x, size = _by_cosine(x, size, keep)
        x = x + fed(block, x)
    return vit.forward_head(vit.norm(x))


def ppt(model: PrunedViT, images: Tensor) -> Tensor:
    """PPT: explicit attention with log(size); the images that prune and those that pool are computed apart and joined again."""

    def act(x: Tensor, size: Tensor, seen: Seen, budget: Budget) -> tuple[Tensor, Tensor]:
        merged = budget.live - budget.keep
        share = seen.weights[:, :, 0].sum(1) * seen.values.transpose(1, 2).flatten(2).norm(dim=-1)
        share = share[:, 1:] / share[:, 1:].sum(1, keepdim=True)
        prunes = share.var(1) >= model.selector_at(budget.block, x.shape[1] - 1).threshold  # type: ignore[operator]
        fresh, sizes = x[:, merged:].clone(), size[:, merged:].clone()
        if bool(prunes.any()):
            order = share[prunes].sort(dim=1, descending=True).indices[:, : budget.keep]
            order = torch.cat([torch.zeros_like(order[:, :1]), order + 1], 1)
            fresh[prunes], sizes[prunes] = gathered(x[prunes], order), gathered(size[prunes], order)
        if not bool(prunes.all()):
            pool, some = matching(seen.keys[~prunes].mean(1), merged), size[~prunes]
            sizes[~prunes] = pool(some)
            fresh[~prunes] = pool(x[~prunes] * some) / sizes[~prunes]
        return fresh, sizes

    return walked(model, images, act, proportional=True)


def pitome(model: PrunedViT, images: Tensor) -> Tensor:
    """PiToMe: explicit attention, all cosines, energies and a sort, and a merge by scatter_reduce, in every block."""

    def act(x: Tensor, size: Tensor, seen: Seen, budget: Budget) -> tuple[Tensor, Tensor]:
        metric = F.normalize(seen.keys.mean(1)[:, 1:], dim=-1)
        cosine = metric @ metric.transpose(1, 2)
        energy = F.elu(cosine - (_MARGIN - _MARGIN * budget.block / model.depth)).mean(-1)
        order = energy.sort(dim=1, descending=True).indices
        merge = _energy_merge(cosine, order, budget.live - budget.keep, budget.block >= math.ceil(model.depth / 2))
        weighted, sizes = merge(x * size), merge(size)
        return weighted / sizes, sizes

    return walked(model, images, act)


def tofu(model: PrunedViT, images: Tensor) -> Tensor:
    """ToFu as PiToMe's authors have it: ToMe's matching in every block; early ones drop, later ones take means and rescale their norms."""
    first = model.depth // 2 + 1

    def act(x: Tensor, size: Tensor, seen: Seen, budget: Budget) -> tuple[Tensor, Tensor]:
        merge = matching(seen.keys.mean(1), budget.live - budget.keep)
        if budget.block < first:
            return merge(x, "none"), size
        norms = x.norm(dim=-1, keepdim=True)
        return merge(x, "mean") / merge(norms, "none") * merge(norms, "amax"), size

    return walked(model, images, act)


def _by_cosine(x: Tensor, size: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Return tokens and sizes with those behind the first `keep` merged into the most similar of these, never into the class token."""
    unit = x / x.norm(dim=-1, keepdim=True)
    cosine = unit[:, keep:] @ unit[:, :keep].transpose(1, 2)
    cosine[..., 0] = -math.inf
    best, into = cosine.max(-1)
    place = into.unsqueeze(-1)
    tokens = x[:, :keep].scatter_reduce(1, place.expand(-1, -1, x.shape[-1]), x[:, keep:], "mean")
    return tokens, size[:, :keep].scatter_add(1, place, size[:, keep:] * best.unsqueeze(-1))


def _energy_merge(cosine: Tensor, order: Tensor, merged: int, protects: bool) -> Callable[[Tensor], Tensor]:
    """Return what merges tokens or sizes (B,T,C) of PiToMe's pairs: of all patches, or of the 2 * merged of most energy."""
    ranked = order[:, : 2 * merged] if protects else order
    a, b = ranked[:, ::2], ranked[:, 1::2]
    pairs = gathered(cosine, a).gather(2, b.unsqueeze(1).expand(-1, a.shape[1], -1))
    best, partner = pairs.max(-1)
    edges = best.argsort(dim=1, descending=True)[:, :merged]
    source, into = a.gather(1, edges) + 1, b.gather(1, partner.gather(1, edges)) + 1

    def merge(x: Tensor) -> Tensor:
        place = into.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        summed = x.scatter_add(1, place, gathered(x, source))
        stays = torch.ones_like(x[..., 0], dtype=torch.bool).scatter(1, source, 0)
        return summed[stays].view(x.shape[0], -1, x.shape[-1])

    return merge
