"""Where a sweep's reports go: a folder a sweep, and a failing sweep costs no good table."""

import json

import pytest

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.runs.experiment_files import experiment
from tokenprune.runs.sweep import folder_name
from tokenprune.utils.paths import expected_of

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    "chosen, words, name",
    [
        (None, ["method=evit,ats"], "method-evit,ats"),
        (None, ["scale=smoke", "+method=evit,ats"], "method-evit,ats_scale-smoke"),
        (None, [], "default"),
        ("cube", ["+experiment=cube"], "cube"),
        ("cube", ["+experiment=cube", "seed=0,1", "results_dir=/x", "hydra.launcher.n_jobs=2", "launcher=joblib"], "cube__seed-0,1"),
        ("cube", ["validate_only=false", "export_weights=x", "fresh=12.5", "reports.plot=null", "+reports.usage.images=2"], "cube"),
    ],
)
def test_a_folder_is_named_by_what_its_rows_depend_on(chosen, words, name):
    assert folder_name(chosen, words) == name == folder_name(chosen, words[::-1])


def test_names_that_cannot_show_everything_end_in_a_digest():
    wide = [folder_name(None, [f"backbone.option_{i}={i}" for i in range(n)]) for n in (30, 31)]
    odd = [folder_name(None, [f"data.root=/a{mark}b"]) for mark in "/:*"]
    assert len({*wide, *odd}) == 5 and all(len(name) < 140 and "/" not in name for name in (*wide, *odd))
    assert folder_name(None, ["~losses.ratio"]) != folder_name(None, ["losses.ratio"])


def test_the_second_sweep_leaves_the_first_one_alone(cli, fake):  # noqa: F811
    for method in ("dense,evit", "evit"):
        assert cli("-m", *TINY, f"method={method}")[0] == 0
    assert cli("-m", *TINY, "method=dense,evit", "seed=1")[0] == 0
    folders = list((cli.folder / "results/tables").iterdir())
    tables = sorted(len((folder / "table.csv").read_text().splitlines()) for folder in folders)
    assert len(folders) == 3 and tables == [2, 3, 3]
    about = [json.loads((folder / "sweep.json").read_text()) for folder in folders]
    assert sorted(len(found["overrides"]) for found in about) == [7, 7, 8] and {found["bad"] for found in about} == {0}


@pytest.mark.parametrize("name", [None, "table2_preserve"])
def test_a_failing_sweep_leaves_a_good_table_alone(cli, fake, monkeypatch, name):  # noqa: F811
    words = [f"+experiment={name}", *TINY, f"+rows/{name}=00_dense,03_evit_remove"] if name else ["-m", *TINY, "method=dense,evit"]
    assert cli(*words)[0] == 0
    folder = cli.tables()
    good = (folder / "table.csv").read_text()

    def broken(self, cfg):
        raise ValueError("no such heads")

    monkeypatch.setattr(fake, "build_model", broken)
    code, _, err = cli(*words, "--fresh")
    assert code == 3 and (folder / "table.csv").read_text() == good and f"{folder.name} holds this table without bad rows" in err
    failed = folder.with_name(f"{folder.name}-failed")
    assert "no such heads" in (failed / "table.md").read_text() and json.loads((failed / "sweep.json").read_text())["bad"] == 2
    monkeypatch.undo()


def test_a_good_sweep_replaces_a_failed_one_and_tables_of_earlier_versions_count_as_good(cli, fake, monkeypatch):  # noqa: F811
    words = ["-m", *TINY, "method=dense,random"]
    code, _, err = cli(*words)
    assert code == 3 and "without bad rows" not in err
    (folder,) = (cli.folder / "results/tables").iterdir()
    code, _, err = cli(*words)  # bad again: the same folder
    assert [path.name for path in (cli.folder / "results/tables").iterdir()] == [folder.name]
    (folder / "sweep.json").unlink()
    assert cli(*words)[0] == 3 and folder.with_name(f"{folder.name}-failed").is_dir()


def test_a_folder_of_a_variant_has_the_papers_numbers_and_the_words_of_its_experiment():
    assert expected_of("table2_preserve__seed-1") == expected_of("table2_preserve") is not None
    assert experiment("cube__seed-1") == experiment("cube") is not None
