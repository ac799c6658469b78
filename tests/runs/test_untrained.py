"""Rows of gates, routers, fusions and heads that are as they were drawn say so on the screen and below the table."""

import pytest
import torch

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tests.helpers.rows import made
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.results import row_folder
from tokenprune.runs.row import WEIGHTS, _start
from tokenprune.runs.run import Run
from tokenprune.runs.untrained import MARK, drawn, marks, notes
from tokenprune.utils.checkpoints import read_weights
from tokenprune.utils.paths import weights_path

GATES = "selector.eval_mode=topk"  # gates of a mode that needs no images of the task


@pytest.mark.parametrize("method", ["svit", "dynamicvit", "cropr", "spvit", "adavit", "ia_red2", "patch_merger", "sinkhorn", "sit"])
def test_every_selector_with_learned_parts_is_seen(method):
    config = resolve(compose(["scale=smoke", "task=classification", f"method={method}"]))
    model = config.task_kind().build_model(config)
    before = drawn(model)
    (said,) = [note for note in notes(before) if "selector" in note]
    assert said.startswith(MARK) and f"selector {method}" in said
    for parameter in model.selectors.parameters():
        parameter.data += 1
    assert not [note for note in notes(before) if "selector" in note]


def test_selectors_without_parameters_have_nothing_to_train():
    config = resolve(compose(["scale=smoke", "task=classification", "method=evit"]))
    assert notes(drawn(config.task_kind().build_model(config))) == []


def test_a_row_of_untrained_gates_is_marked_where_it_is_printed_and_below_its_table(cli, fake):  # noqa: F811
    code, out, _ = cli(*TINY, "method=svit", GATES, "training.iterations=0")
    assert code == 0 and "values of selector svit are random, neither loaded nor trained" in out
    again = cli(*TINY, "method=svit", GATES, "training.iterations=0")[1]  # which is read from disk
    assert again.count("neither loaded nor trained") == 1
    code, out, _ = cli("-m", *TINY, "method=svit", GATES, "training.iterations=0,1", "--fresh")
    lines = out.splitlines()
    assert code == 0 and [("neither loaded" in line) for line in lines if line.startswith("[")] == [True, False]
    assert f"SViT: {MARK}" in (cli.tables() / "table.md").read_text()


def test_a_trained_row_is_not_marked(cli, fake):  # noqa: F811
    code, out, _ = cli(*TINY, "method=svit", GATES)
    (row,) = [row for row in cli.rows() if row["method"] == "svit"]
    assert code == 0 and "untrained" not in out and marks(row) == ""


def test_losses_that_alone_teach_a_selector_are_named_where_they_lack():
    note = "losses.auxiliary, which alone teaches the selector, is left out"
    assert marks({"notes": ["starts from random weights", note, note]}) == note and marks({}) == ""


def test_a_random_head_and_a_random_fusion_are_marked():
    config = resolve(compose(["scale=smoke", "task=classification", "method=cropr"]))
    task = config.task_kind()
    model = task.build_model(config)
    said = " ".join(notes(drawn(model, task.head(model))))
    assert "the head" in said and ("the fusion of the treatment" in said) == (model.fusion is not None)


@pytest.mark.parametrize("method", ["svit", "cropr"])
def test_a_row_that_starts_from_one_of_its_method_has_its_selectors(method, tmp_path):
    setting = ["scale=smoke", "task=classification", f"method={method}", "training.iterations=0", "seed=3"]
    trained = made(tmp_path, *setting)
    path = row_folder(tmp_path, trained["key"]) / WEIGHTS
    config = resolve(compose([*setting, f"init={path}"]))
    torch.manual_seed(9)
    model = config.task_kind().build_model(config)
    before = drawn(model)
    load, said = _start(config)
    load(model)
    weights = read_weights(path)
    assert not [note for note in notes(before) if "selector" in note] and f"its selectors, too, are those of {path.name}" in said
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())


def test_selectors_of_another_method_or_size_stay_new(tmp_path):
    setting = ["scale=smoke", "task=classification", "training.iterations=0"]
    path = row_folder(tmp_path, made(tmp_path, *setting, "method=svit")["key"]) / WEIGHTS
    for method in ("dynamicvit", "evit"):
        config = resolve(compose([*setting, f"method={method}", f"init={path}"]))
        model = config.task_kind().build_model(config)
        load, said = _start(config)
        load(model)
        assert not [text for text in said if "selectors" in text]
        assert all(read_weights(path)[name].equal(value) for name, value in model.state_dict().items() if name.startswith("backbone."))


def test_a_classifier_that_pools_elsewhere_gives_encoder_norm_and_head():
    config = Run.of(resolve(compose(["task=classification_mae", "init_weights=null", "init=demo_classifier"])))
    load, said = _start(config)
    model = config.task_kind().build_model(config)
    load(model)
    assert said[1:] == ["the file's final norm stands behind the pooling"]
    given = read_weights(weights_path("demo_classifier"))
    for name in ("fc_norm.weight", "head.weight", "blocks.0.norm1.weight"):
        assert torch.equal(model.state_dict()[f"backbone.{name}"], given[f"backbone.{name.removeprefix('fc_')}"].float())
