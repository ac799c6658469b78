"""The authors' ways of methods that group tokens by more than one matching: MCTF, ALGM, ATC and K-Medoids; see `authors`."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.cli.bench.steps import Seen, attention, embedded, explicit, fed, gathered, matching, projected, walked
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.schedule import Budget

_TAU_INFO, _TAU_SIZE, _SIDE, _ROUNDS, _OUTSIDE = 20, 40, 2, 3, 1e6


def mctf(model: PrunedViT, images: Tensor) -> Tensor:
    """MCTF: a map of all tokens by explicit products, of which keys, then queries, merge by scatter_reduce; values of the new tokens."""
    x, vit, budgets = embedded(model, images)
    size: Tensor | None = None
    for number, block in enumerate(vit.blocks):
        bias = None if size is None else size[..., 0].log()
        if number in budgets:
            seen, _, _ = attention(block.attn, block.norm1(x), bias)
            received = seen.mean((1, 2)).unsqueeze(-1)
            merge = _both_ways(x, received, size, budgets[number].live - budgets[number].keep)
            size = torch.ones_like(received) if size is None else size
            weight = received * (size / size.amax(1, keepdim=True))
            norm = merge(weight)
            seen = merge(merge(seen.unsqueeze(-1)).squeeze(-1) * weight.unsqueeze(1)) / norm.unsqueeze(1)
            x, size = merge(x * weight) / norm, merge(size)
            x = x + block.drop_path1(_of_values(block.attn, block.norm1(x), seen))
        else:
            x = x + block.drop_path1(explicit(block.attn, block.norm1(x), bias)[0])
        x = x + fed(block, x)
    return vit.forward_head(vit.norm(x))


def algm(model: PrunedViT, images: Tensor) -> Tensor:
    """ALGM: cosines of all pairs of a window by broadcasting, a top-k of windows; later ToMe's matching. Images merge equally many."""
    patches: Any = model.backbone.patch_embed
    first = min(model.budgets(patches.num_patches))

    def act(x: Tensor, size: Tensor, seen: Seen, budget: Budget) -> tuple[Tensor, Tensor]:
        threshold = model.selector_at(budget.block, x.shape[1] - 1).threshold  # type: ignore[operator]
        merge = _windows(x, patches.grid_size, threshold) if budget.block == first else matching(x, _likely(budget.block + 1))
        sums, sizes = merge(x * size), merge(size)
        return sums / sizes, sizes

    return walked(model, images, act)


def atc(model: PrunedViT, images: Tensor) -> Tensor:
    """ATC: explicit attention with log(size); distances go to the host, where scikit-learn clusters image by image."""
    from sklearn.cluster import AgglomerativeClustering

    def act(x: Tensor, size: Tensor, seen: Seen, budget: Budget) -> tuple[Tensor, Tensor]:
        count = budget.keep
        metric = F.normalize(seen.keys.mean(1)[:, 1:], dim=-1)
        apart = (1 - metric @ metric.transpose(1, 2)).clamp(min=0).cpu().numpy()
        cluster = AgglomerativeClustering(count, metric="precomputed", linkage="average")
        found = torch.stack([torch.as_tensor(cluster.fit(image).labels_) for image in apart]).to(x.device)
        place = found.unsqueeze(-1)
        sums = torch.zeros_like(x[:, :count]).scatter_add(1, place.expand(-1, -1, x.shape[-1]), x[:, 1:] * size[:, 1:])
        sizes = torch.zeros_like(size[:, :count]).scatter_add(1, place, size[:, 1:])
        return torch.cat([x[:, :1], sums / sizes], 1), torch.cat([size[:, :1], sizes], 1)

    return walked(model, images, act, proportional=True)


def kmedoids(model: PrunedViT, images: Tensor) -> Tensor:
    """K-Medoids of TokenReduction: explicit attention, all distances, and for each round and cluster a copy of them, sums and an argmin.

    The loop over clusters runs on the host.
    """
    x, vit, budgets = embedded(model, images)
    received = torch.zeros_like(x[:, 1:, 0])
    for number, block in enumerate(vit.blocks):
        if number in budgets:
            x = torch.cat([x[:, :1], gathered(x[:, 1:], _medoids(x[:, 1:], received, budgets[number].keep))], 1)
        out, seen, _, _ = explicit(block.attn, block.norm1(x))
        received = seen.sum((1, 2))[:, 1:]
        x = x + block.drop_path1(out)
        x = x + fed(block, x)
    return vit.forward_head(vit.norm(x))


def _both_ways(x: Tensor, received: Tensor, size: Tensor | None, merged: int) -> Callable[[Tensor], Tensor]:
    """Return what merges MCTF's pairs in the last dimension but one of (B,...,T,c), given tokens (B,T,C), attention and sizes (B,T,1)."""
    unit = x / x.norm(dim=-1, keepdim=True)
    scores = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2) + 1) / 2
    for values, tau in ((received, _TAU_INFO), (size, _TAU_SIZE)):
        if values is not None:
            rare = 1 / values
            rare = rare / rare.amax(1, keepdim=True)
            scores = scores * (rare[:, ::2] * rare[:, 1::2].transpose(1, 2)) ** (1 / tau)
    scores[:, 0] = -math.inf
    there, back = merged // 2, merged - merged // 2
    best, partner = scores.max(-1)
    edges = best.argsort(dim=1, descending=True)
    source, left = edges[:, :there], edges[:, there:].sort(dim=1).values
    into = partner.gather(1, source)
    best, partner = gathered(scores, left).transpose(1, 2).max(-1)
    edges = best.argsort(dim=1, descending=True)
    home = partner.gather(1, edges[:, :back])

    def merge(x: Tensor) -> Tensor:
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        odd = odd.scatter_reduce(-2, _spread(into, x), even.gather(-2, _spread(source, x)), "sum")
        even = even.gather(-2, _spread(left, x))
        even = even.scatter_reduce(-2, _spread(home, x), odd.gather(-2, _spread(edges[:, :back], x)), "sum")
        return torch.cat([even, odd.gather(-2, _spread(edges[:, back:], x))], -2)

    return merge


def _spread(slots: Tensor, x: Tensor) -> Tensor:
    """Return slots (B,K) as indices of the last dimension but one of (B,...,T,c)."""
    return slots.view(slots.shape[0], *[1] * (x.dim() - 3), -1, 1).expand(*x.shape[:-2], slots.shape[1], x.shape[-1])


def _of_values(attn: torch.nn.Module, x: Tensor, seen: Tensor) -> Tensor:
    """Return what attention adds to normed tokens (B,T,C) with a map (B,h,T,T) that is there: values alone are made."""
    (B, T, C), qkv = x.shape, attn.qkv
    v = F.linear(x, qkv.weight[2 * C :], qkv.bias[2 * C :]).view(B, T, attn.num_heads, -1).transpose(1, 2)  # type: ignore[operator]
    return projected(attn, seen, v)


def _windows(x: Tensor, grid: tuple[int, int], threshold: float) -> Callable[[Tensor], Tensor]:
    """Return what merges ALGM's windows of tokens or sizes (B,1+N,C); merged windows come first, by falling similarity."""
    B, (H, W), each = x.shape[0], grid, _SIDE * _SIDE
    places = torch.arange(H * W, device=x.device).view(H // _SIDE, _SIDE, W // _SIDE, _SIDE).transpose(1, 2).reshape(1, -1, each)
    members = x[:, 1:][:, places[0]].transpose(2, 3)  # (B,windows,C,4)
    cosine = F.cosine_similarity(members.unsqueeze(-1), members.unsqueeze(-2), dim=2) * (1 - torch.eye(each, device=x.device))
    alike = cosine.sum((2, 3)) / (each * (each - 1))
    count = int((alike >= threshold).sum(1).min())
    chosen = alike.topk(count, dim=1).indices
    taken = places.expand(B, -1, -1).gather(1, chosen.unsqueeze(-1).expand(-1, -1, each))
    free = torch.ones_like(alike, dtype=torch.bool).scatter(1, chosen, 0)
    stays = places.expand(B, -1, -1)[free].view(B, -1).sort(dim=1).values
    into = torch.arange(count, device=x.device).repeat_interleave(each - 1).expand(B, -1)

    def merge(x: Tensor) -> Tensor:
        rest = x[:, 1:]
        last, others = gathered(rest, taken[..., -1]), gathered(rest, taken[..., :-1].flatten(1))
        joined = last.scatter_reduce(1, into.unsqueeze(-1).expand(-1, -1, x.shape[-1]), others, "sum")
        return torch.cat([x[:, :1], joined, gathered(rest, stays)], 1)

    return merge


def _likely(layer: int) -> Callable[[Tensor], int]:
    """Return what counts the pairs that ALGM merges in a layer, from 1, given the best similarities (B,T/2), the class token's first."""

    def count(best: Tensor) -> int:
        threshold = best[:, 1:].mean(1).mean() + best[:, 1:].std(1).mean() / layer
        return int((best >= threshold).sum(1).min())

    return count


def _medoids(x: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return the slots (B,count) of medoids of tokens (B,M,C), found cluster by cluster."""
    chosen = weights.topk(count, dim=1).indices
    apart = torch.cdist(x, x)
    weighted = apart * weights.unsqueeze(-1)
    for _ in range(_ROUNDS):
        owner = apart.gather(2, chosen.unsqueeze(1).expand(-1, x.shape[1], -1)).argmin(-1)
        for cluster in range(count):
            inside = weighted.clone()
            inside[owner != cluster] = _OUTSIDE
            chosen[:, cluster] = inside.sum(-1).argmin(1)
    return chosen
