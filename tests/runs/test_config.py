"""Deriving runs from runs, and validation that names every problem at once."""

import pytest

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.runs.config import compose, dense_of, pretrained_of, resolve
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate

SMOKE = ["scale=smoke"]


@pytest.fixture(scope="module")
def evit() -> dict:
    return resolve(compose([*SMOKE, "method=evit"]))


def test_the_dense_row_is_the_dense_model_that_other_rows_start_from(evit):
    dense = resolve(compose(SMOKE))
    assert run_key(dense) == run_key(dense_of(evit))
    assert dense["init"] == "scratch" and dense["selector"] == {"name": "none"}


def test_all_seeds_and_methods_share_one_dense_model(evit):
    other = resolve(compose([*SMOKE, "method=dynamicvit", "treatment=preserve", "seed=3", "schedule.keep_rate=0.5"]))
    assert run_key(other) != run_key(evit)
    assert run_key(dense_of(other)) == run_key(dense_of(evit))


def test_a_row_of_cost_alone_starts_from_the_dense_model_of_all_rows(evit):
    speedy = resolve(compose([*SMOKE, "method=evit", "measure=[cost]"]))
    assert run_key(dense_of(speedy)) == run_key(dense_of(evit)) and run_key(speedy) != run_key(evit)
    assert resolve(compose([*SMOKE, "measure=[cost]"]))["measure"] == ["cost"]  # a dense row has what it asks for


def test_dense_and_pretrained_runs_are_valid_and_apart(evit):
    evit = {**evit, "dense": {**evit["dense"], "init": "pretrained"}}
    dense, pretrained = dense_of(evit), pretrained_of(evit)
    assert dense["init"] == "pretrained" and pretrained["init"] == "scratch"
    assert pretrained["task"]["name"] == "classification" and pretrained["data"]["side"] == evit["backbone"]["img_size"]
    assert len({run_key(c) for c in (evit, dense, pretrained)}) == 3
    for config in (dense, pretrained):
        validate(config)


def test_pretraining_does_not_depend_on_the_seed_of_the_row():
    keys = {run_key(pretrained_of(resolve(compose(["method=evit", f"seed={seed}", "init_weights=null"])))) for seed in (0, 1)}
    assert len(keys) == 1


def test_a_detector_with_an_adapter_is_pretrained_without():
    adapted, plain = (pretrained_of(resolve(compose([f"backbone={name}", "init_weights=null"]))) for name in ("vit_adapter", "vit_demo"))
    assert "adapter" not in adapted["backbone"] and run_key(adapted) == run_key(plain)


def test_keep_rate_of_a_dense_row_means_nothing():
    assert run_key(resolve(compose([*SMOKE, "schedule.keep_rate=0.5"]))) == run_key(resolve(compose(SMOKE)))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"schedule": {"name": "stages", "keep_rate": 0}}, "keep_rate is 0; allowed: 0 < keep_rate <= 1"),
        ({"schedule": {"name": "stages", "keep_rate": 1.5}}, "keep_rate is 1.5; allowed"),
        ({"schedule": {"name": "stages", "keep_rate": "abc"}}, "keep_rate is 'abc', which is no number"),
        ({"schedule": {"name": "stages", "keep_rate": True}}, "no number"),
        ({"schedule": {"name": "stages", "blocks": [3, 12]}}, "block 12 is outside the model: it has 12 blocks"),
        ({"schedule": {"name": "stges"}}, "Did you mean 'stages'"),
        ({"schedule": {"name": "stages", "roundng": "ceil"}}, "Did you mean 'rounding'"),
        ({"selector": {"name": "evti"}}, "Did you mean 'evit'"),
        ({"selector": {"name": "topk", "score": "clss"}}, "allowed: cls, mean_query, column_mean"),
        ({"treatment": {"name": "presrve"}}, "Did you mean 'preserve'"),
        ({"treatment": {"name": "reactivate"}}, "SViT section 4.1"),
        ({"selector": {"name": "sit"}}, "task=detection reads maps; allowed there: a_vit, adavit, algm, atc, ats"),
        ({"task": {"name": "detecton"}}, "Did you mean 'detection'"),
        ({"cls": "leaned"}, "cls is 'leaned'; allowed: learned, random, mean"),
        ({"execution": "fast"}, "execution is 'fast'; allowed: auto, masked, gathered, packed"),
        ({"losses": {"ratoi": {}}}, "Did you mean 'ratio'"),
        ({"init": "dnse"}, "there is no such file"),
        ({"data": {"name": "shapes", "side": 60}}, "data.side is 60, which backbone.patch_size=8 does not divide"),
        ({"data": {"name": "coco", "root": "???"}}, "data.root is not set"),
        ({"data": {"name": "coco", "root": "nowhere"}}, "there is no such folder"),
        ({"data": {"name": "imagefolder", "root": "???"}}, "data.root is not set; give the folder that holds train and val"),
        ({"data": {"name": "imagefolder", "root": "nowhere"}}, "there is no such folder; give the one that holds train and val"),
        ({"task": {"name": "classification", "flipp": True}}, "did you mean 'flip'"),
        ({"task": {"name": "classification", "view": {"crop_pct": 2.0}}}, "task.view.crop_pct is 2.0"),
        ({"dense": {"init": None, "seed": 0, "training": {"iterations": 1}}}, "dense.init is not set"),
        ({"init_weights": "none.safetensors"}, "none.safetensors is missing"),
        ({"training": {"iterations": 3, "lrr": 1}}, "lrr"),
        ({"backbone": {"patch_size": 8, "embed_dim": 48, "num_heads": 3, "adapter": {"heads": 7}}}, "adapter.heads 7 does not divide"),
        ({"task": {"name": "classification"}, "backbone": {"adapter": {}}}, "classification reads no maps; allowed: a plain ViT"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)  # fmt: skip
def test_each_mistake_is_one_clear_error(evit, change, words):
    with pytest.raises(TokenPruneError) as caught:
        validate({**evit, **change})
    assert words in str(caught.value)


def test_all_mistakes_at_once(evit):
    wrong = {
        "cls": "x",
        "execution": "y",
        "schedule": {"name": "stages", "keep_rate": 2},
        "training": {"iterations": "many"},
        "init": "nowhere",
    }
    with pytest.raises(InvalidConfig) as caught:
        validate({**evit, **wrong})
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize(
    ("method", "words"), [("evit", "block 3 keep 45"), ("svit", "block 3-5 keep expected 44"), ("ats", "block 3 keep at most 44")]
)
def test_words_say_what_the_counts_are_to_the_selector(method, words):
    assert words in validate(resolve(compose([*SMOKE, f"method={method}"])), files=False)


def test_validate_only_asks_for_no_data_and_no_weights():
    config = resolve(compose(["scale=paper", "method=evit"]))
    assert "block 3 keep 2940" in validate(config, files=False)
    with pytest.raises(InvalidConfig) as caught:
        validate(config)
    assert {p.split(" ")[0] for p in caught.value.problems} == {"data.root", "dense.init"}
