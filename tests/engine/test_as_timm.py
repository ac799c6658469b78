"""timm's own tools on a pruned model: optimizers, data configuration, classifiers, gradient checkpointing."""

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

import tokenprune
from tests.helpers.models import images as inputs
from tests.helpers.models import small
from tests.helpers.pairings import encode_checked, images, label, pairings, pruned, sampled, tiny_vit
from tokenprune.measure.usage import record

MODELS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224", "naflexvit_base_patch16_gap")


@pytest.mark.parametrize("name", MODELS)
def test_the_configuration_of_the_data_is_the_models_own(name):
    vit = small(name)
    model = tokenprune.prune(vit)
    assert model.pretrained_cfg is vit.pretrained_cfg and model.default_cfg is vit.default_cfg
    assert resolve_data_config({}, model=model) == resolve_data_config({}, model=vit)
    assert (model.num_classes, model.num_features) == (vit.num_classes, vit.num_features)
    assert tokenprune.prune(tiny_vit()).pretrained_cfg == {}  # a model that timm's factory did not make


@pytest.mark.parametrize("name", MODELS)
def test_groups_of_parameters_are_those_of_the_model_and_new_parts_join_the_last(name):
    vit = small(name)
    model = tokenprune.prune(vit, "cropr", schedule={"name": "stages", "blocks": [1], "keep_rate": 0.5}, cls="learned")
    own = {f"backbone.{n}": group for n, group in group_parameters(vit, vit.group_matcher(), reverse=True).items()}
    found = group_parameters(model, model.group_matcher(), reverse=True)
    assert {n: found[n] for n in own} == own and max(own.values()) > 3
    assert {found[n] for n in found if n not in own} == {max(own.values())}
    assert model.no_weight_decay() == {f"backbone.{n}" for n in vit.no_weight_decay()}


@pytest.mark.parametrize("name", MODELS)
def test_optimizers_treat_the_backbone_as_they_treat_the_model(name):
    vit = small(name)
    model = tokenprune.prune(vit)
    for make in (param_groups_weight_decay, param_groups_layer_decay):
        ours, theirs = (make(m, weight_decay=0.05, no_weight_decay_list=m.no_weight_decay()) for m in (model, vit))
        assert [[id(p) for p in g["params"]] for g in ours] == [[id(p) for p in g["params"]] for g in theirs]
        assert [{k: v for k, v in g.items() if k != "params" and k != "param_names"} for g in ours] == [
            {k: v for k, v in g.items() if k != "params" and k != "param_names"} for g in theirs
        ]


def test_the_classifier_is_the_models_and_can_be_exchanged():
    model = pruned("evit", "fuse")
    assert model.get_classifier() is model.backbone.head
    model.reset_classifier(9)
    assert model(images(2)).shape == (2, 9) and model.num_classes == 9


def kept(model, x):
    """Return the bytes that a training pass keeps for its backward pass, the gradients, and the logits."""
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(x)
        loss = logits.square().sum()
    loss.backward()
    return sum(held.values()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, logits


@pytest.mark.parametrize(("selector", "treatment"), sampled(pairings()), ids=label)
def test_gradient_checkpointing_changes_memory_and_no_gradient(selector, treatment):
    model = pruned(selector, treatment, vit=tiny_vit(drop_path_rate=0.2)).train()
    memory, gradients, logits = kept(model, images(3))
    model.set_grad_checkpointing()
    less, again, same = kept(model, images(3))
    assert torch.equal(logits, same) and gradients.keys() == again.keys() and less < 0.45 * memory
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("before", [True, False])
def test_gradient_checkpointing_may_be_set_before_pruning_or_after(name, before):
    x, memory = inputs(small(name)), []
    for enable in (False, True):
        vit = small(name)
        if before:
            vit.set_grad_checkpointing(enable)
        model = tokenprune.prune(vit, "variance", schedule={"name": "stages", "blocks": [1], "keep_rate": 0.5}).train()
        if not before:
            model.set_grad_checkpointing(enable)
        memory.append(kept(model, x)[0])
    assert memory[1] < 0.5 * memory[0]


def test_who_watches_a_checkpointed_pass_sees_each_block_once():
    model = pruned("evit", "fuse").train()
    model.set_grad_checkpointing()
    seen = []
    model.probe = lambda observation: seen.append(observation.block)
    with record(model) as usage:
        model(images(2)).sum().backward()
    assert seen == list(range(6)) and len(usage.images) == 2 and model.probe is not None
    state = model.eval().start(images(1))
    with torch.no_grad():
        encode_checked(model, images(1))
    assert state.prefix.shape[1] == 1


def test_a_model_of_timm_keeps_its_own_way_of_checkpointing():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1)
    vit.set_grad_checkpointing()
    assert isinstance(vit.head, nn.Linear) and tokenprune.prune(vit).backbone.grad_checkpointing
