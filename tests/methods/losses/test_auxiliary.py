"""The loss of auxiliary heads by its formula, for hard and soft labels, and who has none."""

from dataclasses import replace

import pytest
import torch

from tests.helpers.pairings import images, pruned
from tokenprune.engine.loss import IGNORED, LossInputs
from tokenprune.errors import InvalidConfig
from tokenprune.methods.losses.auxiliary import AuxiliaryLoss
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate

SOFT = torch.tensor([[0.9, 0.1, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.5, 0.0], [0.2] * 5])
HARD = torch.tensor([3, 0, 1])


def trained(selector="cropr", **loss):
    model = pruned(selector, "last_layer_fusion", "per_block", losses={"auxiliary": loss}).train()
    return model, model.encode(images(3))


def by_hand(outputs, targets):
    """The term of each module, image by image and query by query."""
    soft = targets if targets.ndim == 2 else torch.eye(5)[targets]
    terms = []
    for _, _, logits in outputs.aux:
        rows = [-(soft[i] * (row - row.logsumexp(-1, keepdim=True))).sum(-1).mean() for i, row in enumerate(logits)]
        terms.append(sum(rows) / 3)
    return terms


@pytest.mark.parametrize("selector", ["cropr", {"name": "cropr", "queries": 3}], ids=str)
@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize(("options", "factor"), [({}, 1.0), ({"weight": 0.5}, 0.5), ({"weight": 2.0, "reduce": "mean"}, 0.5)])
def test_a_sum_of_cross_entropies(selector, targets, options, factor):
    model, outputs = trained(selector, **options)
    terms = by_hand(outputs, targets)
    assert len(terms) == 4
    found = model.losses(outputs, targets=targets)
    torch.testing.assert_close(found["loss_auxiliary"], factor * sum(terms))
    assert model.eval().losses(outputs, targets=targets) == {}


def test_a_pass_without_predictions_has_no_loss_and_one_without_labels_is_refused():
    model, outputs = trained()
    with pytest.raises(InvalidConfig, match=r"given no targets; give the labels: model.losses\(outputs, targets=labels\)"):
        model.losses(outputs)
    model, outputs = trained("variance")
    assert model.losses(outputs) == {} and AuxiliaryLoss().loss(LossInputs(outputs, model, targets=HARD)) is None


@pytest.mark.parametrize(("options", "text"), [({"weight": -1}, "weight is -1"), ({"reduce": "max"}, "'max', allowed are sum and mean")])
def test_wrong_options_are_refused(options, text):
    with pytest.raises(InvalidConfig, match=text):
        AuxiliaryLoss(**options)


def test_a_task_without_labels_is_refused_and_detection_is_not():
    assert AuxiliaryLoss.refusal("timm", ()) == (
        "losses.auxiliary needs labels, and task=timm gives none; use classification, segmentation or detection"
    )
    validate(resolve(compose(["method=cropr", "scale=smoke", "task=detection"])), files=False)


def outputs_with(name, *payloads):
    """Outputs that hold nothing but these notes."""
    model = pruned("variance", "last_layer_fusion", "per_block").eval()
    outputs = model.encode(images(2))
    return replace(outputs, state=outputs.state.replace(aux=tuple((name, block, payload) for block, payload in enumerate(payloads))))


def test_labels_of_patches_position_by_position():
    logits, labels = torch.randn(2, 64, 5), torch.randint(0, 5, (2, 64))
    labels[0, 10:50] = IGNORED
    terms = [-logits[b, n].log_softmax(-1)[labels[b, n]] for b in range(2) for n in range(64) if labels[b, n] != IGNORED]
    facts = LossInputs(outputs_with("auxiliary", logits, logits), None, patches=labels)
    torch.testing.assert_close(AuxiliaryLoss().loss(facts), 2 * sum(terms) / 88)
    assert AuxiliaryLoss().loss(replace(facts, patches=torch.full_like(labels, IGNORED))) == 0
    with pytest.raises(InvalidConfig, match=r"predictions are \(2, 64\), labels of positions \(2, 63\).*selector.queries=patches"):
        AuxiliaryLoss().loss(replace(facts, patches=labels[:, :63]))


def test_classes_of_an_image_one_by_one():
    logits, held = torch.randn(2, 5), torch.tensor([[1.0, 0, 0, 1, 0], [0.0, 0, 0, 0, 0]])
    terms = [-(p.log() if h else (1 - p).log()) for p, h in zip(logits.sigmoid().flatten(), held.flatten(), strict=True)]
    for given in (logits, logits.unsqueeze(1).expand(-1, 3, -1)):
        found = AuxiliaryLoss().loss(LossInputs(outputs_with("auxiliary", given), None, presence=held))
        torch.testing.assert_close(found, sum(terms) / 10)


def test_tokens_learn_the_label_of_their_place():
    logits, places, labels = torch.randn(2, 3, 5), torch.tensor([[4, 0, -1], [7, 63, 1]]), torch.randint(0, 5, (2, 64))
    rows = [(b, m) for b in range(2) for m in range(3) if places[b, m] >= 0]
    terms = [-logits[b, m].log_softmax(-1)[labels[b, places[b, m]]] for b, m in rows]
    facts = LossInputs(outputs_with("token_logits", (logits, places)), None, patches=labels)
    torch.testing.assert_close(AuxiliaryLoss().loss(facts), sum(terms) / 5)
    hard = -torch.stack([logits[b, m].log_softmax(-1)[HARD[b]] for b, m in rows]).mean()
    torch.testing.assert_close(AuxiliaryLoss().loss(replace(facts, patches=None, targets=HARD[:2])), hard)


def test_a_query_a_patch():
    model = pruned({"name": "cropr", "queries": "patches"}, "last_layer_fusion", "per_block", losses={"auxiliary": {}}, classes=7).train()
    outputs = model.encode(images(2))
    assert [tuple(logits.shape) for _, _, logits in outputs.aux] == [(2, 64, 7)] * 4
    assert model.losses(outputs, patches=torch.zeros(2, 64, dtype=torch.long))["loss_auxiliary"] > 0
    assert all(selector.query.shape == (1, 24) for selector in model.deploy().selectors.values())
    with pytest.raises(InvalidConfig, match="queries is 'many'; allowed: >= 1, or patches"):
        pruned({"name": "cropr", "queries": "many"}, "last_layer_fusion", "per_block")
