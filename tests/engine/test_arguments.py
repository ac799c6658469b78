"""Python misuse of `prune` and of a pruned model: one clear error of ours, with what to write instead."""

import pytest
import timm
import torch

from tests.helpers.pairings import tiny_vit
from tokenprune import prune
from tokenprune.errors import InvalidConfig, TokenPruneError, UnsupportedBackbone


def deep_vit() -> torch.nn.Module:
    """Return a small ViT of as many blocks as the papers' have."""
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, num_heads=3, depth=12, num_classes=5)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"keep_rate": 0.5}, "Write schedule={'keep_rate': 0.5}."),
        ({"method": "evit"}, "Write selector='evit'"),
        ({"selectr": "evit"}, "Did you mean 'selector'?"),
        ({"selector": "svit", "eval_mode": "topk"}, "Write selector={'name': 'svit', 'eval_mode': 'topk'}."),
        ({"schedule": 0.5}, 'schedule={"keep_rate": 0.5}'),
        ({"schedule": {"name": "stages", "blocks": 2}}, "schedule.blocks of 'stages' is 2"),
        ({"schedule": {"name": "explicit", "keep": [1, 2]}}, "allowed: {block: count or share}"),
        ({"schedule": {"name": "explicit", "keep": {"a": 3}}}, "allowed: {block: count or share}"),
        ({"schedule": {"keep_rte": 0.5}}, "Did you mean 'keep_rate'?"),
        ({"treatment": 3}, "treatment is 3; allowed: a name, or a mapping"),
        ({"selector": {"tau": 1}}, "no `name` in {'tau': 1}"),
        ({"selector": ["evit"]}, "selector is ['evit']"),
        ({"selector": {"name": 3}}, "no `name` in {'name': 3}"),
        ({"losses": {"ratio": None}}, "losses['ratio'] is None; allowed: {name: options}"),
        ({"losses": ["ratio"]}, "allowed: {name: options}"),
        ({"losses": {"ratio": 2.0}}, "allowed: {name: options}"),
        ({"positions": "x"}, "positions is 'x'; allowed: None or a whole number"),
        ({"classes": True}, "classes is True"),
    ],
    ids=str,
)
def test_arguments_of_another_form_are_one_error(arguments, words):
    with pytest.raises(TokenPruneError) as caught:
        prune(tiny_vit(), **{"selector": "evit", **arguments})
    assert words in str(caught.value)


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", None, torch.nn.Linear])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(UnsupportedBackbone, match="allowed: a model itself, e.g. timm.create_model"):
        prune(model, "evit")


def test_options_without_a_name_change_what_the_paper_uses():
    given, whole, same = (prune(deep_vit(), "evit", schedule=schedule) for schedule in ({"keep_rate": 0.5}, None, {}))
    assert given.schedule.keep_rate == 0.5 and whole.schedule.keep_rate != 0.5
    assert type(given.schedule) is type(whole.schedule) and given.schedule.blocks == whole.schedule.blocks
    assert same.schedule == whole.schedule


@pytest.mark.parametrize(
    "images, words",
    [
        (torch.zeros(3, 32, 32), "add the batch: images[None]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "images.float() / 255"),
        (torch.zeros(1, 3, 32, 32).numpy(), "images are a ndarray"),
        (torch.zeros(2, 1, 3, 32, 32), "images are a tensor (2, 1, 3, 32, 32)"),
    ],
    ids=["no batch", "uint8", "numpy", "too deep"],
)
def test_images_of_another_form_are_one_error(images, words):
    model = prune(deep_vit(), "evit").eval()
    for call in (model, model.encode):
        with pytest.raises(InvalidConfig) as caught:
            call(images)
        assert words in str(caught.value)


def test_export_of_models_of_all_kinds_ends_in_a_file_or_in_one_line(tmp_path, capsys):
    from tokenprune.cli.export import main

    out = ["--pt2", str(tmp_path / "x.pt2")]
    deit = ["--model", "deit_tiny_patch16_224"]
    for words, said in (
        (["--model", "resnet18"], "ResNet cannot be pruned"),
        (["--model", "resnet18", "--size", "64"], "timm cannot make resnet18"),
        ([*deit, "--selector", "{tau: 1}"], "no `name` in {'tau': 1}"),
        ([*deit, "--selector", "{name: evit"], "is no mapping"),
        ([*deit, "--selector", "evit", "--schedule", "{keep_rate: [}"], "is no mapping"),
        ([*deit, "--selector", "evit", "--schedule", "{name: stages, blocks: 2}"], "schedule.blocks of 'stages' is 2"),
        (["--row", str(tmp_path)], "there is no row at"),
    ):
        assert main([*words, *out]) == 1
        err = capsys.readouterr().err.splitlines()
        assert [line for line in err if not line.startswith("warning")] == [line for line in err if said in line] != []


def test_a_model_without_a_size_of_its_own_is_exported_at_that_of_its_configuration(capsys):
    from tokenprune.cli.export import of_timm

    name = "naflexvit_base_patch16_gap"
    model, size = of_timm(name, None, 3, None, {"selector": "tome"})
    assert size == tuple(timm.get_pretrained_cfg(name).input_size[-2:]) and model.embed_dim == 768


def test_a_row_is_exported_with_settings_that_it_has():
    from tokenprune.cli.export import _changed

    config = {"selector": {"name": "svit"}, "backbone": {"img_size": 32}}
    assert _changed(config, ["selector.eval_mode=topk"])["selector"]["eval_mode"] == "topk"
    for words, said in ((["selectr.eval_mode=topk"], "no setting"), (["topk"], "sets nothing"), (["selector.a=[1"], "cannot read")):
        with pytest.raises(InvalidConfig, match=said):
            _changed(config, words)
