"""The class token's lesson by loops over heads and patches; it learns; and who is asked for foreground."""

import math

import pytest
import torch

from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.engine.loss import LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.methods.losses.class_attention import ClassAttention

STAGES = {"name": "stages", "blocks": [1, 2, 4], "keep_rate": 0.7}


def objects(count=2):
    """Patches of which images have the left half, and the last image nothing."""
    share = torch.zeros(count, 8, 8)
    share[:-1, :, :4] = 1.0
    share[:-1, :, 4] = 0.5
    return share.flatten(1)


def a_pass(**options):
    model = pruned("random", "preserve", STAGES, losses={"class_attention": options}, vit=tiny_vit()).train()
    outputs = model.encode(images(2))
    return model, outputs


def rows_by_loops(block):
    """The class token's softmax over patches in a block, from timm's own modules, with nothing dropped before it."""
    vit = tiny_vit()
    x = vit._pos_embed(vit.patch_embed(images(2)))
    for number in range(block):
        x = vit.blocks[number](x)
    layer = vit.blocks[block]
    qkv = layer.attn.qkv(layer.norm1(x)).unflatten(-1, (3, 3, 8))  # (B,T,3,h,d)
    q, k = qkv[:, 0, 0], qkv[:, :, 1]
    logits = torch.einsum("bhd,bthd->bht", q, k) / math.sqrt(8)
    return logits.softmax(-1).mean(1)[:, 1:]


def test_dropped_tokens_get_no_attention():
    _, outputs = a_pass(blocks=(0, 1))
    rows = [payload for name, _, payload in outputs.aux if name == "class_attention"]
    assert len(rows) == 2 and (rows[0] > 0).all() and (rows[1] == 0).sum() == 2 * (64 - math.floor(0.7 * 64))


def test_the_divergence_by_loops():
    """The first decision is taken before block 1, so no token is gone from block 0. The image without an object does not count."""
    model, outputs = a_pass(weight=0.3, blocks=(0,))
    found = model.losses(outputs, foreground=objects())["loss_class_attention"]
    row, total = rows_by_loops(0)[0], 0.0
    share = [float(v) for v in objects()[0]]
    for patch in range(64):
        wanted, given = share[patch] / sum(share), float(row[patch] / row.sum())
        total += wanted * math.log(wanted / given) if wanted else 0.0
    assert float(found) == pytest.approx(0.3 * total, rel=1e-4)


def test_it_moves_the_attention_to_the_objects():
    model = pruned("topk", "preserve", {**STAGES, "keep_rate": 0.9}, losses={"class_attention": {"weight": 1.0}}, vit=tiny_vit()).train()
    optimizer, seen = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(25):
        loss = model.losses(model.encode(images(2)), foreground=objects())["loss_class_attention"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss))
    assert seen[-1] < 0.3 * seen[0]


def test_nothing_is_observed_at_test_time_and_the_numbers_are_the_same():
    with_loss, without = (pruned("topk", "preserve", STAGES, losses=losses, vit=tiny_vit()) for losses in ({"class_attention": {}}, {}))
    x = images(2)
    with torch.no_grad():
        assert torch.equal(with_loss(x), without(x)) and not with_loss.observed(True)
        assert not with_loss.encode(x).aux
    with_loss.train()
    assert with_loss.observed(True)
    torch.testing.assert_close(with_loss(x), without.train()(x))


def test_a_model_without_prefix_tokens_has_no_such_loss():
    model = pruned("random", "remove", STAGES, losses={"class_attention": {}}, vit=tiny_vit(class_token=False, global_pool="avg")).train()
    assert "loss_class_attention" not in model.losses(model.encode(images(2)), foreground=objects())


def test_foreground_must_be_given_and_options_must_fit():
    model, outputs = a_pass()
    with pytest.raises(InvalidConfig, match="losses.class_attention was given no foreground"):
        ClassAttention().loss(LossInputs(outputs, model))
    with pytest.raises(InvalidConfig, match="losses.class_attention.weight is -1, allowed are 0 and more"):
        ClassAttention(weight=-1)
    with pytest.raises(InvalidConfig, match=r"losses.class_attention.blocks is \[-1\], allowed are blocks from 0 on"):
        ClassAttention(blocks=(-1,))
    assert "needs foreground, which task=classification does not give" in ClassAttention.refusal("classification", ("presence",))
