"""Cross-Attn and Cross-Attn + Concat of Cropr's Table 5 by their formula, who is seen, and images of another grid."""

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.pairings import images, pruned
from tokenprune.engine.state import TokenState
from tokenprune.methods.fusions.cross_attention import CrossAttention

KINDS = ("cross_attention", "cross_attention_concat")


def fusion(everything=False, proj=True, positions=6, dim=8, heads=2):
    """A block none of whose parameters is at its first value of 0 or 1."""
    torch.manual_seed(2)
    made = CrossAttention(dim, heads, positions, everything, proj)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.4)
    return made.eval()


def state(grid=(2, 3), dim=8):
    """Two images, one prefix token, of whose positions some are dead slots as in masked execution."""
    generator = torch.Generator().manual_seed(0)
    N = grid[0] * grid[1]
    prefix, tokens = (torch.randn(2, n, dim, generator=generator) for n in (1, N))
    live = torch.rand(2, N, generator=generator) > 0.4
    return TokenState.start(prefix, tokens, grid).replace(live=live, complete=False)


def normed(x, norm):
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-6)


def by_hand(made, queries, keys):
    """One image: queries (N,C), keys (T,C), head by head and query by query."""
    d, seen = 8 // made.heads, normed(keys, made.key_norm)
    asks, k, v = (layer(x) for layer, x in ((made.ask, normed(queries, made.query_norm)), (made.key, seen), (made.value, seen)))
    rows = []
    for q in asks:
        parts = []
        for at in (slice(h * d, (h + 1) * d) for h in range(made.heads)):
            weights = torch.stack([(q[at] @ key[at] / d**0.5).exp() for key in k])
            parts.append(sum(w * value[at] for w, value in zip(weights, v, strict=True)) / weights.sum())
        rows.append(torch.cat(parts))
    x = queries + made.out(torch.stack(rows))
    hidden = F.gelu(F.linear(normed(x, made.mlp_norm), made.mlp.fc1.weight, made.mlp.fc1.bias))
    return x + F.linear(hidden, made.mlp.fc2.weight, made.mlp.fc2.bias)


@pytest.mark.parametrize("proj", [True, False])
@pytest.mark.parametrize("everything", [False, True])
@torch.no_grad()
def test_the_block_by_its_formula(everything, proj):
    """Keys are the prefix and the live tokens; with `everything` the prefix and all positions, by what is stored of them."""
    made, before = fusion(everything, proj), state()
    after = made(before)
    assert after.known.complete and after.known.in_grid_order and torch.equal(after.prefix, before.prefix)
    for image in range(2):
        shown = before.tokens[image] if everything else before.tokens[image][before.live[image]]
        expected = by_hand(made, made.queries[0], torch.cat([before.prefix[image], shown]))
        expected = expected @ made.proj.weight.T + made.proj.bias if proj else expected
        torch.testing.assert_close(after.tokens[image], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_only_concat_sees_what_was_retired(kind):
    """A change of what is stored for retired tokens, where they are still slots, and where they are not."""
    for execution in ("masked", "gathered"):
        model, x = pruned("random", kind, execution=execution), images(2)
        last, _ = model.run(model.start(x), 0, model.depth)
        map_, retired = last.dense(), ~last.present()
        assert retired.sum() == 2 * (64 - 21)  # 64 x 0.7^3
        touched = last.replace(tokens=map_ + retired.unsqueeze(-1)) if execution == "masked" else last.replace(
            canvas=None if last.canvas is None else map_ + retired.unsqueeze(-1)
        )  # fmt: skip
        same = torch.equal(model.finish(last, ()).map, model.finish(touched, ()).map)
        assert same == (kind == "cross_attention")
        seen = last.replace(tokens=last.tokens + last.live.unsqueeze(-1))
        assert not torch.equal(model.finish(last, ()).map, model.finish(seen, ()).map)


@torch.no_grad()
def test_images_of_another_grid_get_interpolated_queries():
    made = fusion(positions=6)
    assert made.grid == (2, 3) and torch.equal(made.asked((2, 3)), made.queries)
    constant = made.queries[:, :1].expand(-1, 6, -1).clone()
    made.queries.copy_(constant)
    torch.testing.assert_close(made.asked((4, 5))[0], constant[0, :1].expand(20, -1))
    made.queries.copy_(torch.arange(6.0).view(1, 6, 1).expand(1, 6, 8))
    turned = made.asked((3, 2))[0, :, 0]  # as many positions, another shape: not the same numbers in another order
    assert not torch.equal(turned, torch.arange(6.0)) and (turned.view(3, 2).diff(dim=1) > 0).all()
    assert [CrossAttention(8, 2, n, False).grid for n in (64, 4200, 7)] == [(8, 8), (60, 70), (1, 7)]
    wide = pruned("random", "cross_attention")
    assert wide.encode(images(1, side=48)).map.shape == (1, 144, 24)


@torch.no_grad()
def test_heads_are_the_models_and_sizes_the_formulas():
    """12 C^2 and biases of the block, N C queries, C^2 + C of the projection, three norms."""
    for kind in KINDS:
        for proj in (True, False):
            model = pruned("random", {"name": kind, "proj": proj})
            C = 24
            block = 4 * (C * C + C) + (4 * C * C + 4 * C) + (4 * C * C + C) + 3 * 2 * C
            assert sum(p.numel() for p in model.fusion.parameters()) == block + 64 * C + proj * (C * C + C)
            assert model.fusion.heads == 3
