"""NaN and infinity in an evaluation: found in every task, and traced to the module that they come from."""

import pytest
import torch
from torch import nn

from tests.helpers.pairings import images, pruned
from tests.tasks import test_classification, test_segmentation
from tokenprune.errors import Diverged, status_of
from tokenprune.utils.finite import all_finite, check_finite, first_not_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("parameter", "module"),
    [
        ("blocks.3.mlp.fc1.weight", r"backbone\.blocks\.3\.mlp\.fc1 \(Linear\)"),
        ("blocks.2.attn.proj.bias", r"backbone\.blocks\.2\.attn\.proj \(Linear\)"),
        ("patch_embed.proj.bias", r"backbone\.patch_embed\.proj \(Conv2d\)"),
        ("head.bias", r"backbone\.head \(Linear\)"),
    ],
)
def test_the_first_module_that_is_not_finite_is_named(parameter, module, value):
    model, x = pruned("evit", "fuse"), images(2)
    with torch.no_grad():
        model.backbone.get_parameter(parameter).flatten()[0] = value
        with pytest.raises(Diverged, match=f"first those of {module}") as error:
            check_finite(model(x), model, lambda: model(x))
    assert status_of(error.value) == "diverged"


def test_what_is_finite_and_what_is_not_a_number_pass():
    assert all_finite([torch.ones(2), {"a": torch.tensor([2**40]), "b": (None, "text", torch.zeros(0))}])
    assert not all_finite({"a": [torch.tensor([1.0, float("nan")])]})


def test_images_that_are_not_finite_are_not_the_models_fault():
    model = nn.Sequential(nn.Linear(2, 2))
    assert "whose input is not finite either" in first_not_finite(model, lambda: model(torch.tensor([[float("nan"), 0.0]])))


@pytest.mark.parametrize("task_tests", [test_classification, test_segmentation], ids=["classification", "segmentation"])
def test_tasks_refuse_to_judge_outputs_that_are_not_finite(task_tests):
    task, cfg, model = task_tests.new()
    vit = getattr(model, "pruned", model).backbone
    model.train()
    vit.norm.eval()
    task.evaluate(model, cfg)
    assert model.training and not vit.norm.training  # each part is in its own mode again
    with torch.no_grad():
        vit.blocks[1].mlp.fc2.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match=r"blocks\.1\.mlp\.fc2"):
        task.evaluate(model, cfg)
    assert model.training and not vit.norm.training
