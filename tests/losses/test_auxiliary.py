"""The loss of auxiliary heads by its formula, for hard and soft labels, and who has none."""

import pytest
import torch

from tests.pairings import images, pruned
from tokenprune.config import compose, resolve
from tokenprune.errors import InvalidConfig
from tokenprune.losses.auxiliary import AuxiliaryLoss
from tokenprune.losses.base import Facts
from tokenprune.validation import validate

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
    assert model.losses(outputs) == {} and AuxiliaryLoss().loss(Facts(outputs, model, targets=HARD)) is None


@pytest.mark.parametrize(("options", "text"), [({"weight": -1}, "weight is -1"), ({"reduce": "max"}, "'max', allowed are sum and mean")])
def test_wrong_options_are_refused(options, text):
    with pytest.raises(InvalidConfig, match=text):
        AuxiliaryLoss(**options)


def test_detection_has_no_labels_for_it_yet():
    config = resolve(compose(["method=cropr", "scale=smoke", "+losses.auxiliary={}"]))
    with pytest.raises(InvalidConfig, match="losses.auxiliary needs targets, which task=detection does not give"):
        validate(config, files=False)
