"""The class token's attention by position, against the softmax written out."""

import pytest
import torch

from tests.helpers.pairings import images, label, pruned, representatives, tiny_vit
from tokenprune import prune
from tokenprune.errors import TokenPruneError
from tokenprune.measure.attention import attention_of, coverage
from tokenprune.measure.usage import record


@torch.no_grad()
def written_out(vit, batch):
    """Mean over heads of the class token's row in each block of a dense timm model, (B,L,N)."""
    x, rows = vit._pos_embed(vit.patch_embed(batch)), []
    for block in vit.blocks:
        attn = block.attn
        q, k, _ = attn.qkv(block.norm1(x)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rows.append(((q @ k.transpose(2, 3)) * attn.scale).softmax(-1)[:, :, 0, 1:].mean(1))
        x = block(x)
    return torch.stack(rows, 1)


@torch.no_grad()
def test_a_dense_model_gives_the_rows_of_the_softmax():
    vit = tiny_vit()
    model = prune(vit)
    with attention_of(model) as seen:
        for part in images(3).split(2):
            model(part)
    assert [image.grid for image in seen] == [(8, 8)] * 3
    assert torch.allclose(torch.stack([image.blocks for image in seen]), written_out(vit, images(3)), atol=1e-6)
    assert torch.equal(seen[0].cropped(8, 5), seen[0].blocks.view(6, 8, 8)[:, :, :5])


@torch.no_grad()
@pytest.mark.parametrize(("selector", "treatment"), representatives(), ids=label)
def test_looking_changes_nothing_and_shows_the_tokens_that_take_part(selector, treatment):
    model = pruned(selector, treatment).eval()
    with record(model) as used:
        plain = model.encode(images())
    with attention_of(model) as seen:
        watched = model.encode(images())
    assert torch.allclose(plain.map, watched.map, atol=1e-5) and model.probe is None
    assert all(torch.equal(~image.blocks.isnan(), entered.blocks) for image, entered in zip(seen, used.images, strict=True))
    assert torch.stack([image.blocks.nansum(1) for image in seen]).max() < 1  # the class token attends to itself too


def test_a_model_without_a_class_token_is_refused():
    with pytest.raises(TokenPruneError, match="no class token"), attention_of(prune(tiny_vit(class_token=False, global_pool="avg"))):
        pass
    with pytest.raises(TokenPruneError, match="has no PrunedViT inside"), attention_of(torch.nn.Linear(2, 2)):
        pass


def test_coverage_is_the_share_of_attention_on_what_is_used():
    whole = torch.tensor([[0.1, 0.2, 0.1], [0.3, 0.0, 0.1]])
    used = torch.tensor([[True, True, True], [True, False, False]])
    assert coverage(whole, used).tolist() == pytest.approx([1.0, 0.75])
