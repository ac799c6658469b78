"""The words of a command line: settings that do not exist, flags, quotes, and the parser's errors in plain words."""

from pathlib import Path

import pytest
from hydra.errors import HydraException

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.runs.command_line import explain, prepared, quoted
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate

pytestmark = pytest.mark.system

KEEP_RATE = "Did you mean schedule.keep_rate?"


def complaint(*overrides: str) -> str:
    """Return what a run of these choices is refused with, at the smoke scale, after the command line has prepared them."""
    with pytest.raises((HydraException, TokenPruneError)) as caught:
        validate(resolve(compose(prepared(["scale=smoke", "method=evit", *overrides]))), files=False)
    return explain(caught.value)


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize(
    "override, words",
    [
        ("keep_rate=0.5", KEEP_RATE),
        ("keeprate=0.5", KEEP_RATE),
        ("lr=0.5", "Did you mean training.lr?"),
        ("foo=1", "there is no setting 'foo'."),
        ("dense.sed=1", "there is no setting 'dense.sed'."),
        ("pretrained.dta=1", "there is no setting 'pretrained.dta'."),
        ("schedule.keep_rte=0.5", "Did you mean 'keep_rate'?"),
        ("selector.foo=1", "selector 'evit' has no option foo"),
        ("treatment.foo=1", "treatment 'remove' has no option foo"),
        ("data.foo=1", "data 'shapes' has no option foo"),
        ("task.foo=1", "task.foo is not a setting"),
        ("backbone.foo=1", "backbone.foo is not a setting"),
        ("training.foo=1", "training.foo is not a setting"),
        ("dense.training.foo=1", "dense.training.foo is not a setting"),
        ("losses.ratoi.weight=1", "Did you mean 'ratio'?"),
        ("reports.tabel={}", "Did you mean 'table'?"),
    ],
    ids=lambda value: value.partition("=")[0],
)
def test_a_setting_that_does_not_exist_is_refused_with_or_without_a_plus(override, words, plus):
    said = complaint(f"{plus}{override}")
    assert words in said and "use +" not in said


def test_a_misspelt_group_is_refused_where_a_plus_would_add_it():
    assert KEEP_RATE in complaint("+scedule.keep_rate=0.5")


@pytest.mark.parametrize("override", ["schedule.keep_rte=0.5", "selector.foo=1", "treatment.foo=1"])
def test_a_dense_run_refuses_options_that_no_plugin_has(override):
    assert f"there is no setting {override.partition('=')[0]!r}" in complaint("method=dense", override)
    resolve(compose(["scale=smoke", "schedule.keep_rate=0.5", "selector.eval_mode=topk"]))  # a sweep gives it those of other rows


def test_the_run_that_a_row_is_pretrained_by_is_checked():
    said = complaint("dense.init=pretrained", "pretrained.data.sde=3", "pretrained.task.flipp=1", "pretrained.training.lrr=3")
    assert all(words in said for words in ("pretrained: data 'shapes' has no option sde", "pretrained: task.flipp", "'lr'?"))


def test_a_sweep_says_it_once_and_begins_no_row(cli, fake):  # noqa: F811
    code, out, err = cli("-m", *TINY, "seed=0,1", "+keep_rate=0.5")
    assert code == 2 and err.count("error: ") == 1 and KEEP_RATE in err and fake.built == []
    code, out, err = cli("-m", *TINY, "+keep_rate=0.5,0.7")
    assert code == 3 and err.count(KEEP_RATE) == 1 and fake.built == [] and cli.rows() == []


@pytest.mark.parametrize(
    "word, words",
    [
        ("method=evit,tome", "'method=evit,tome' names several values: for a sweep over them add -m"),
        ("label=größe,höhe", "'label=größe,höhe' names several values"),
        ("method=evit,tome,", "ends with a comma"),
        ("schedule.keep_rate", "sets nothing: write KEY=VALUE"),
        ("seed:1", "sets nothing: write KEY=VALUE"),
        ("measure=[cost", "has 1 '[' and 0 ']'"),
        ("reports={table:{}", "has 2 '{' and 1 '}'"),
        ("label='a", "a quote that is not closed"),
        ("schedule.keep_rate=0.5=3", "cannot read 'schedule.keep_rate=0.5=3'"),
    ],
)
def test_what_the_parser_does_not_take_is_told_in_plain_words(word, words):
    said = complaint(word)
    assert words in said and "hydra.cc" not in said and "Exception" not in said and "\n" not in said


@pytest.mark.parametrize(
    "words, told",
    [
        (["--method", "evit"], "there is no flag '--method'. Choices and values have no dashes: method=evit"),
        (["--method=evit"], "Choices and values have no dashes: method=evit"),
        (["--mutirun", "seed=1,2"], "Did you mean --multirun?"),
        (["--frsh"], "Did you mean --fresh?"),
        (["--cfg", "jbo"], "invalid choice: 'jbo'"),
    ],
)
def test_flags_that_do_not_exist(cli, words, told):  # noqa: F811
    code, out, err = cli(*words)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and told in err and "usage" not in out + err


def test_flags_may_stand_anywhere():
    assert prepared(["seed=1,2", "-m", "+x=1", "~losses.ratio"]) == ["-m", "~losses.ratio", "seed=1,2", "+x=1"]
    assert prepared(["seed=1", "--config-dir", "a=b"]) == ["--config-dir", "a=b", "seed=1"]
    (fresh,) = prepared(["--fresh"])
    assert fresh.startswith("fresh=")


def test_values_of_other_alphabets_and_home_folders_need_no_quotes(cli, monkeypatch):  # noqa: F811
    assert resolve(compose(prepared(["label=größe 数", "scale=smoke"]))).label == "größe 数"
    assert quoted("label=größe,a") == "label='größe',a" and quoted("label=a-b_c/d") == "label=a-b_c/d"
    for word in ("label='größe'", "measure=[größe]", "label=$a{größe}"):
        assert quoted(word) == word
    code, out, _ = cli("-m", *TINY[:1], "label=größe,höhe", "validate_only=true")
    assert code == 0 and "[1] größe" in out and "[2] höhe" in out


def test_a_stored_configuration_with_a_field_of_another_version_is_one_error():
    from tokenprune.runs.run import Run

    with pytest.raises(InvalidConfig, match="there is no setting 'cls_token'"):
        Run.of({"cls_token": 3})


def test_home_folders_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["results_dir=~/r", "data.root=~/d", "data=imagefolder", "task=classification", "init=~/w.pt", "init_weights=~/i.pt"]
    words += ["dense.init=~/s.pt", "export_weights=~/e.pt", "backbone.pretrained=~/b.pt", "pretrained.data.root=~/p", "scale=smoke"]
    run = resolve(compose(prepared(words)))
    found = [run.results_dir, run.data["root"], run.init, run.init_weights, run.dense["init"], run.export_weights]
    found += [run.backbone["pretrained"], run.pretrained["data"]["root"]]
    assert found == [str(tmp_path / name) for name in ("r", "d", "w.pt", "i.pt", "s.pt", "e.pt", "b.pt", "p")]
    assert prepared(["--config-dir=~/c"]) == [f"--config-dir={tmp_path / 'c'}"]


def test_a_sweep_writes_below_the_home_folder_and_makes_no_folder_of_that_name(cli, fake, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    code, _, err = cli("-m", *TINY, "seed=0,1", "results_dir=~/results")
    assert (code, err) == (0, "") and [path.name for path in Path(tmp_path).iterdir()] == ["home"]
    assert len(list((tmp_path / "home/results/rows").iterdir())) == 2


@pytest.mark.parametrize("group", ["reports", "losses", "treatment_labels", "dense", "dense.training", "pretrained.data"])
def test_a_group_that_an_interpolation_makes_a_text_of_is_refused(cli, group):  # noqa: F811
    code, _, err = cli("scale=smoke", "validate_only=true", f"{group}=${{scale}}")
    assert code == 2 and err.startswith("error: ") and "Traceback" not in err
    assert group in err and "smoke" in err
