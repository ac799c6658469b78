"""Command lines of rows: recorded as typed, and put together of what an older row says of itself."""

import shlex

import pytest

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401 (fixtures)
from tokenprune.runs.commands import command_of, derived
from tokenprune.runs.composer import composer
from tokenprune.runs.config import compose, resolve

ROW = {
    "experiment": "table2_preserve", "method": "evit", "treatment": "remove", "keep_rate": 0.7, "cls": "learned", "scale": "demo",
    "seed": 0, "task": "detection", "data": "shapes",
}  # fmt: skip


def test_what_is_recorded_makes_the_row_and_leaves_out_where_it_lies():
    words = [
        "method=evit",
        "data.root=/my data",
        "results_dir=/x",
        "+hydra.verbose=true",
        "launcher=joblib",
        "fresh=17.5",
        "reports.usage.images=8",
        "seed=2",
    ]
    assert command_of(words) == "tokenprune run method=evit 'data.root=/my data' seed=2"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "+experiment=table2_preserve +rows/table2_preserve=03_evit_remove"),
        ({"seed": 2, "scale": "smoke"}, "+experiment=table2_preserve +rows/table2_preserve=03_evit_remove scale=smoke seed=2"),
        ({"experiment": "single_runs"}, "task=detection data=shapes method=evit treatment=remove schedule.keep_rate=0.7"),
        (
            {"method": "tome", "keep_rate": float("nan")},
            "task=detection data=shapes method=tome treatment=remove",
        ),  # the table has no such row
        ({"experiment": "", "method": "dense", "treatment": "none", "keep_rate": None}, "task=detection data=shapes method=dense"),
        ({"experiment": "", "cls": "random"}, "task=detection data=shapes method=evit treatment=remove cls=random schedule.keep_rate=0.7"),
    ],
)
def test_what_is_derived(changes, expected):
    assert derived({**ROW, **changes}) == f"tokenprune run {expected}"


def test_what_is_derived_composes_to_that_row():
    with composer() as together:
        (words,) = together.expand(shlex.split(derived(ROW))[2:])
    row = resolve(compose(words))
    assert (row.experiment, row.method, row.treatment_name, row.keep_rate, row.scale) == ("table2_preserve", "evit", "remove", 0.7, "demo")


@pytest.mark.system
def test_a_row_records_what_made_it_and_the_dense_row_that_it_needed_does_not(cli, fake):  # noqa: F811
    code, *_ = cli("-m", *TINY, "method=evit", "seed=0,1", "results_dir=elsewhere/../results")
    assert code == 0
    rows = cli.rows()
    commands = {row["seed"]: row["command"] for row in rows if row["method"] == "evit"}
    assert {seed: words.split()[-1] for seed, words in commands.items()} == {0: "seed=0", 1: "seed=1"}
    assert all(words.startswith("tokenprune run scale=smoke task.name=fake ") and "results_dir" not in words for words in commands.values())
    assert [row.get("command") for row in rows if row["method"] == "dense"] == [None]
