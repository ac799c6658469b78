"""timm's ViT-like names, each built on the meta device: how many can be pruned, why the rest cannot, and what a block costs."""

import functools
from collections import Counter
from unittest import mock

import pytest
import timm
import torch
from timm.models import is_model_in_modules
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tokenprune
from tests.helpers.models import EVERY, images, small
from tokenprune.engine.blocks import adapt
from tokenprune.errors import UnsupportedBackbone
from tokenprune.measure.macs import encoder_macs

MODULES = (
    "vision_transformer", "vision_transformer_hybrid", "deit", "eva", "naflexvit", "beit", "vision_transformer_relpos",
    "vision_transformer_sam",
)  # fmt: skip
REFUSED = {  # name: what stands in the way
    "beit_base_patch16_224": "relative position bias",
    "beitv2_large_patch16_224": "relative position bias",
    "vit_relpos_base_patch16_224": "relative position bias",
    "vit_srelpos_small_patch16_224": "relative position bias",
    "samvit_base_patch16": "windows",
    "swin_tiny_patch4_window7_224": "windows",
    "vit_pwee_patch16_reg1_gap_256": "ParallelScalingBlock: it runs attention and MLP side by side",
    "vit_dpwee_patch16_reg1_gap_256": "DiffParallelScalingBlock: it runs attention and MLP side by side",
    "vit_small_patch16_18x2_224": "several attentions side by side",
    "vit_dwee_patch16_reg1_gap_256": "subtracts one softmax from another",
    "vit_base_patch16_rpn_224": "post-norm",
    "eva02_enormous_patch14_clip_224": "post-norm",
    "resnet18": "not a timm VisionTransformer or Eva or NaFlexVit",
}


def shallow(name):
    """Build a model on the meta device with one block: what a block is made of does not depend on how many there are."""
    no_init = mock.patch("timm.layers.weight_init._trunc_normal_")  # half of the time, for nothing on the meta device
    with torch.device("meta"), no_init:
        try:
            return timm.create_model(name, depth=1, num_classes=0)
        except AssertionError:  # Sapiens 2 lists its key heads block by block
            return timm.create_model(name, depth=1, num_kv_heads=1, num_classes=0)


@functools.cache
def verdicts():
    """Return {name: reason, "" if it can be pruned} of every ViT-like name."""
    found = {}
    for name in (n for module in MODULES for n in timm.list_models(module=module)):
        try:
            adapt(shallow(name))
            found[name] = ""
        except UnsupportedBackbone as error:
            found[name] = str(error)
    return found


@pytest.mark.system
def test_at_least_85_percent_of_timms_vits_are_covered():
    found = verdicts()
    covered = sum(not reason for reason in found.values())
    assert len(found) > 280 and covered / len(found) >= 0.85, Counter(found.values())


def test_every_refusal_says_what_stands_in_the_way():
    reasons = {name: reason for name, reason in verdicts().items() if reason}
    assert not [name for name, reason in reasons.items() if "there is no adapter for it" in reason]
    assert not any(reasons.get(name) for name in timm.list_models(module="deit") + timm.list_models(module="naflexvit"))


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_by_name(name):
    with torch.device("meta"):
        model = shallow(name) if is_model_in_modules(name, MODULES) else timm.create_model(name)
    with pytest.raises(UnsupportedBackbone, match=REFUSED[name]) as caught:
        tokenprune.prune(model, "svit")
    assert type(model).__name__ in str(caught.value) and "Take a plain ViT" in str(caught.value)


class _Extended(timm.models.vision_transformer.VisionTransformer):
    """A ViT whose tokens go another way."""

    def forward_features(self, x):
        return super().forward_features(x).flip(1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda vit: setattr(vit.blocks[1], "extra", nn.Linear(2, 2)), "parts that this adapter does not know: extra"),
        (lambda vit: setattr(vit.blocks[1].attn, "rel", nn.Linear(2, 2)), "parts that this adapter does not know: rel"),
        (lambda vit: setattr(vit.blocks[2], "mlp", timm.layers.GlobalResponseNormMlp(48)), "MLP is .*GlobalResponseNormMlp"),
        (lambda vit: setattr(vit, "__class__", _Extended), "_Extended has a forward_features of its own"),
    ],
    ids=["block part", "attention part", "MLP that mixes tokens", "forward"],
)
def test_changed_models_are_refused_by_part(change, text):
    vit = small("vit_tiny_patch16_224")
    change(vit)
    with pytest.raises(UnsupportedBackbone, match=text):
        adapt(vit)


@pytest.mark.parametrize("label", EVERY)
def test_macs_are_torchs_own(label):
    """Dense, and with tokens dropped, of every family: weight layers as they are, attention products, stem."""
    model = small(label)
    plan = {"name": "explicit", "keep": {1: 0.5}}
    for ours in (tokenprune.prune(model), tokenprune.prune(model, "variance", "remove", plan, positions=16)):
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs = ours.encode(images(model, 1))
        assert encoder_macs(ours, outputs).total == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def test_macs_of_a_hybrid_count_the_stem_and_both_heads_of_a_distilled_deit():
    hybrid, deit = adapt(small("vit_tiny_r_s16_p8_224")), adapt(small("deit_tiny_distilled_patch16_224"))
    assert hybrid.embed_macs(16) > 2 * 16 * hybrid.stem.proj.weight.numel() and deit.head_macs() == 2 * 48 * 7
