"""The line that says how far a sweep is."""

import re
import subprocess
import sys

import pytest

from tests.helpers.fakes import row
from tokenprune.runs import standing as module
from tokenprune.runs.standing import in_words, plan_rows, standing
from tokenprune.runs.sweep import write_note

pytestmark = pytest.mark.system


def test_it_counts_rows_and_foretells_from_those_that_were_made(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    assert standing(tmp_path) == ""
    plan_rows(tmp_path, 6)
    write_note(tmp_path, 0, "a", row())  # read from disk
    assert standing(tmp_path) == "1 of 6 rows done, 0 running, 5 left"
    now[0] += 300
    write_note(tmp_path, 1, "b", row(), made=True)
    write_note(tmp_path, 2, "c", row(), running=True)
    assert standing(tmp_path) == "2 of 6 rows done, 1 running, 3 left; about 20 min left"
    for number in range(2, 6):
        write_note(tmp_path, number, "c", row(), made=True)
    assert standing(tmp_path) == ""
    plan_rows(tmp_path / "single", 1)
    assert standing(tmp_path / "single") == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (119, "119 s"), (150, "2 min"), (7100, "118 min"), (7300, "2 h"), (180000, "2 d")]
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    "launcher", ["local", pytest.param("joblib", marks=pytest.mark.slow), pytest.param("submitit_local", marks=pytest.mark.slow)]
)
def test_sweeps_say_it_however_they_are_launched(tmp_path, launcher):
    """In the process of the command, and in processes of their own."""
    if launcher != "local":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher", reason="the extra `sweeps` is not installed")
    command = [sys.executable, "-m", "tokenprune.run", "-m", "task=classification", "scale=smoke", "training.iterations=1", "init=scratch"]
    more = ["method=topk", "seed=0,1", "measure=[cost]", f"launcher={launcher}", f"results_dir={tmp_path}"]
    done = subprocess.run([*command, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"1 of 2 rows done, \d running, \d left; about \d+ (s|min) left", done.stdout), done.stdout
