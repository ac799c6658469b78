"""Models of transformers in every legal pairing, where a class token is added to SigLIP, and where no patch token is left."""

import pytest
import torch

from tests.engine.blocks.test_hf import KEEP_ALL, agree, pruned, same
from tests.helpers.hf_models import FAMILIES, images, small
from tests.helpers.pairings import label as named
from tests.helpers.pairings import pairings


@pytest.mark.slow
@pytest.mark.parametrize(("selector", "treatment"), pairings(), ids=named)
@pytest.mark.parametrize("label", FAMILIES)
@torch.no_grad()
def test_executions_agree_in_every_legal_pairing(label, selector, treatment):
    agree(label, selector, treatment)


@pytest.mark.slow
@pytest.mark.parametrize(("selector", "treatment"), pairings(), ids=named)
@pytest.mark.parametrize("label", FAMILIES)
@torch.no_grad()
def test_nothing_dropped_in_every_legal_pairing(label, selector, treatment):
    model, x = small(label), images()
    ours = pruned(label, selector, treatment, plan=KEEP_ALL, model=model)
    if not ours.treatment.learns:  # which have weights of their own
        same(ours(x), model(x) if ours.class_token is None else with_class_token(ours, x))


def with_class_token(ours, x):
    """Return what the tower's own blocks make of SigLIP's tokens with their mean in front, which is a token more to attend to."""
    tokens = ours.family.embed(x)[1]
    sequence = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
    for block in ours.family.layers(ours.backbone):
        sequence = block(sequence, None)
    hidden = ours.family.norm(sequence)[:, 1:]
    return type(ours.backbone(x))(last_hidden_state=hidden, pooler_output=ours.backbone.head(hidden))


@pytest.mark.parametrize("execution", ["masked", "packed"])
@torch.no_grad()
def test_a_query_reads_nothing_where_no_patch_token_is_left(execution):
    ours = pruned("SiglipVisionModel", {"name": "adavit", "variant": "released"}, "remove", execution)
    [selector.patches.bias.fill_(-100.0) for selector in ours.selectors.values()]
    assert ours(images()).pooler_output.isfinite().all()


@pytest.mark.parametrize("selector", ["evit", "evo_vit"])
@torch.no_grad()
def test_a_class_token_that_is_added_is_attended_to(selector):
    ours, x = pruned("SiglipVisionModel", selector, "preserve", plan=KEEP_ALL), images()
    same(ours(x), with_class_token(ours, x))


@pytest.mark.parametrize("execution", ["masked", "packed"])
@torch.no_grad()
def test_the_mean_of_no_patch_token_is_zero(execution):
    label, x = "Dinov2WithRegistersForImageClassification", images()
    model = small(label)
    ours = pruned(label, {"name": "adavit", "variant": "released"}, "remove", execution, model=model)
    [selector.patches.bias.fill_(-100.0) for selector in ours.selectors.values()]
    outputs = ours.encode(x)
    cls = outputs.prefix[:, 0]
    assert not outputs.present.any()
    torch.testing.assert_close(ours(x).logits, model.classifier(torch.cat([cls, torch.zeros_like(cls)], 1)))
