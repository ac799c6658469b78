"""The module tree of a pruned model is what runs: exchanged parts, hooks, quantised and low-rank layers, copies."""

import copy

import pytest
import torch
from torch import nn

import tokenprune
from tests.helpers.models import PLAIN, ROTARY, small
from tests.helpers.models import images as inputs
from tests.helpers.pairings import images, label, pruned, representatives, tiny_vit
from tokenprune.errors import UnsupportedBackbone
from tokenprune.measure.macs import encoder_macs, planned_macs

OTHERS = {**PLAIN, **ROTARY}


def other_vit(**options):
    vit = tiny_vit(**options)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return vit


def test_an_exchanged_backbone_is_the_one_that_runs():
    x, other = images(2), other_vit()
    with torch.no_grad():
        for model in (tokenprune.prune(tiny_vit()), copy.deepcopy(tokenprune.prune(tiny_vit()))):
            assert not torch.allclose(model(x), other(x), atol=1e-3)
            model.backbone = other
            assert torch.equal(model(x), other(x)) and model.family.model is other
        wanted = pruned("evit", "fuse", vit=other)(x)
        model = pruned("evit", "fuse")
        model.backbone = other
        assert torch.equal(model(x), wanted)


@pytest.mark.parametrize("part", ["blocks.2", "blocks.2.attn", "blocks.2.mlp", "blocks.2.norm1", "blocks", "patch_embed", "norm", "head"])
def test_an_exchanged_part_is_the_one_that_runs(part):
    x, other, model = images(2), other_vit(), tokenprune.prune(tiny_vit())
    with torch.no_grad():
        before = model(x)
        if "." in part:
            owner = model.backbone.get_submodule(part.rpartition(".")[0])
            setattr(owner, part.rpartition(".")[2], other.get_submodule(part))
        else:
            setattr(model.backbone, part, other.get_submodule(part))
        assert torch.equal(model(x), model.backbone(x)) and not torch.equal(model(x), before)


def test_a_part_of_another_kind_or_size_is_refused():
    for exchange, text in (
        (lambda m: setattr(m, "backbone", tiny_vit(depth=4)), "depth is 4, was 6.*tokenprune.prune"),
        (lambda m: setattr(m, "backbone", tiny_vit(embed_dim=48)), "dim is 48, was 24"),
        (lambda m: setattr(m.backbone, "blocks", m.backbone.blocks[:5]), "depth is 5, was 6"),
        (lambda m: m.backbone.blocks.__setitem__(3, nn.Identity()), "its block is torch.nn.*Identity"),
        (lambda m: setattr(m.backbone.blocks[3], "attn", nn.MultiheadAttention(24, 3)), "its attention is"),
        (lambda m: setattr(m.backbone.blocks[3], "mlp", nn.Sequential(nn.Linear(24, 24))), "its MLP is"),
        (lambda m: setattr(m.backbone.blocks[3], "forward", lambda x: x), "its block has a forward that was set on the instance"),
        (lambda m: setattr(m.backbone.blocks[3].attn, "forward", lambda x: x), "its attention has a forward"),
    ):
        model = pruned("random", "remove")
        exchange(model)
        with pytest.raises(UnsupportedBackbone, match=text):
            model(images(1))
        with pytest.raises(UnsupportedBackbone, match=text):
            planned_macs(model, 64)


def test_last_layer_fusion_holds_in_an_exchanged_block():
    model = pruned("cropr", "last_layer_fusion", vit=tiny_vit(drop_path_rate=0.5)).train()
    model.backbone.blocks[5] = tiny_vit(drop_path_rate=0.5).blocks[5]
    assert not model.family.blocks[5].drop_path and model.family.blocks[4].drop_path


@pytest.mark.parametrize(("selector", "treatment"), representatives(), ids=label)
@pytest.mark.parametrize("execution", ["auto", "masked"])
def test_hooks_of_blocks_and_attention_are_called(selector, treatment, execution):
    model, x, seen = pruned(selector, treatment, execution=execution), images(2), []
    states = []
    model.watch = lambda block, state: states.append(state)
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append((module, "in", args[0].shape)))
        block.register_forward_hook(lambda module, args, out: seen.append((module, "out", args[0].shape, out.shape)))
        block.attn.register_forward_hook(lambda module, args, kwargs, out: seen.append((module, "attn", out.shape)), with_kwargs=True)
    with torch.no_grad():
        outputs = model.encode(x)
    for number, block in enumerate(model.backbone.blocks):
        (entered,) = [s for m, what, *s in seen if m is block and what == "in"]
        (left,) = [s for m, what, *s in seen if m is block and what == "out"]
        assert left[0] == entered[0] and entered[0][0] == 2
        assert len([s for m, *s in seen if m is block.attn]) == 1
        if model.selectors[str(number)].site == "before" if str(number) in model.selectors else True:
            assert entered[0][1] == states[number].tokens.shape[1] + 1
    assert model.fusion is not None or left[1] == outputs.state.sequence().shape


def test_what_hooks_return_counts():
    x, vit = images(2), tiny_vit()
    model = tokenprune.prune(vit)
    handles = [
        vit.blocks[1].register_forward_pre_hook(lambda module, args: (args[0] + 0.5,)),
        vit.blocks[2].register_forward_hook(lambda module, args, out: out * 2),
        vit.blocks[3].attn.register_forward_hook(lambda module, args, out: out * 0),
        vit.blocks[4].attn.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] * 2,), kwargs), with_kwargs=True),
        vit.register_forward_hook(lambda module, args, out: out + len(args[0])),
    ]
    with torch.no_grad():
        hooked = vit(x)
        assert torch.equal(model(x), hooked)
        for handle in handles:
            handle.remove()
        assert not torch.equal(vit(x), hooked) and torch.equal(model(x), vit(x))


def test_backward_hooks_get_the_gradients_of_timms_own_pass():
    found = []
    for own in (True, False):
        vit, seen = tiny_vit(), []
        for module in (vit.blocks[2], vit.blocks[4].attn):
            module.register_full_backward_hook(lambda module, grad_in, grad_out, seen=seen: seen.append((grad_in[0], grad_out[0])))
            module.register_full_backward_pre_hook(lambda module, grad_out, seen=seen: seen.append((grad_out[0],)))
        (vit if own else tokenprune.prune(vit))(images(2)).sum().backward()
        found.append([t for ts in seen for t in ts])
    assert len(found[0]) == 6
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


class LowRank(nn.Module):
    """A layer with a low-rank addition, as libraries for fine-tuning put it in the place of a linear layer."""

    def __init__(self, base):
        super().__init__()
        self.base, self.in_features, self.out_features = base, base.in_features, base.out_features
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "eva02_base_patch14_224", "vit_base_patch16_sapiens2"])
def test_low_rank_layers_run_and_count(name):
    vit, x = small(name), inputs(small(name))
    model = tokenprune.prune(vit, "topk", schedule={"name": "stages", "blocks": [1], "keep_rate": 0.5})
    with torch.no_grad():
        outputs = model.encode(x)
        before, logits = encoder_macs(model, outputs), model(x)
        attn = vit.blocks[0].attn
        layer = "qkv" if attn.qkv is not None else "q_proj"
        wrapped = LowRank(getattr(attn, layer))
        setattr(attn, layer, wrapped)
        after = encoder_macs(model, model.encode(x))
        tokens = model.family.own_positions + model.prefix_tokens
        assert after.linear - before.linear == tokens * 2 * (wrapped.in_features + wrapped.out_features)
        assert not torch.allclose(model(x), logits, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("after", [True, False])
def test_quantised_models_run_and_count_as_before(after):
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no engine for quantised layers")
    vit = tiny_vit()
    model = pruned("evit", "fuse", vit=vit)
    plan, x = planned_macs(model, 64, head=True), images(2)
    quantise = torch.ao.quantization.quantize_dynamic
    other = quantise(model, {nn.Linear}) if after else pruned("evit", "fuse", vit=quantise(vit, {nn.Linear}))
    with torch.no_grad():
        outputs = other.encode(x)
    assert not isinstance(other.backbone.blocks[0].attn.qkv, nn.Linear)
    assert planned_macs(other, 64, head=True) == plan and encoder_macs(other, outputs, head=True).total == plan.total
