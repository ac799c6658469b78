"""MHSA + Concat of Cropr's Table 5: a fresh block over all positions."""

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.pairings import images, pruned


def by_hand(fusion, x):
    """The pre-norm block over x (T,C) of one image, head by head."""
    block, heads = fusion.block, fusion.block.attn.num_heads
    normed = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = F.linear(normed, block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, -1)
    d = x.shape[1] // heads
    parts = [((q[:, at] @ k[:, at].T) / d**0.5).softmax(-1) @ v[:, at] for at in (slice(h * d, (h + 1) * d) for h in range(heads))]
    x = x + F.linear(torch.cat(parts, 1), block.attn.proj.weight, block.attn.proj.bias)
    hidden = F.linear(F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias, 1e-6), block.mlp.fc1.weight, block.mlp.fc1.bias)
    return x + F.linear(F.gelu(hidden), block.mlp.fc2.weight, block.mlp.fc2.bias)


@pytest.mark.parametrize("proj", [True, False])
@pytest.mark.parametrize("execution", ["masked", "gathered"])
@torch.no_grad()
def test_the_block_by_its_formula(execution, proj):
    """Over the prefix and every position, a retired one with the value that it retired with."""
    model, x = pruned("random", {"name": "mhsa_concat", "proj": proj}, execution=execution), images(2)
    last, _ = model.run(model.start(x), 0, model.depth)
    assert (~last.present()).any()
    after = model.fusion(last)
    for image in range(2):
        expected = by_hand(model.fusion, torch.cat([last.prefix[image], last.dense()[image]]))
        expected = expected @ model.fusion.proj.weight.T + model.fusion.proj.bias if proj else expected
        torch.testing.assert_close(after.sequence()[image], expected, atol=1e-5, rtol=1e-4)
    assert after.known.complete and after.known.in_grid_order


@torch.no_grad()
def test_sizes():
    """12 C^2 + 9 C of weights and biases, two norms, C^2 + C of the projection."""
    for proj in (True, False):
        model, C = pruned("random", {"name": "mhsa_concat", "proj": proj}), 24
        assert sum(p.numel() for p in model.fusion.parameters()) == 12 * C * C + 9 * C + 4 * C + proj * (C * C + C)
        assert model.fusion.block.attn.num_heads == 3
