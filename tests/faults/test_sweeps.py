"""A sweep in which rows fail keeps all the others, says which failed, and runs only those again."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.runs import row as experiment
from tokenprune.runs.sweep import read_notes

pytestmark = pytest.mark.system

AXES = ["method=dense,evit,random,variance,topk", "treatment=preserve"]
STATUSES = {"dense": "ok", "evit": "ok", "random": "failed", "variance": "diverged", "topk": "oom"}


def test_every_row_has_a_status_and_only_unfinished_ones_run_again(cli, fake):  # noqa: F811
    code, out, err = cli("-m", *TINY, *AXES)
    assert code == 3
    assert {r["method"]: r["status"] for r in cli.rows()} == STATUSES
    assert err.count("error: ") == 3 and "KeyError: 'a bug somewhere'" in err and "loss is not finite" in err
    table = (cli.tables() / "table.md").read_text()
    assert all(status in table for status in STATUSES.values())
    failed = next(r for r in cli.rows() if r["status"] == "failed")
    assert "a bug somewhere" in (cli.folder / "results" / "rows" / failed["key"] / "error.txt").read_text()
    fake.built.clear()
    assert cli("-m", *TINY, *AXES)[0] == 3
    assert fake.built == ["random", "topk"]  # a diverged row would diverge again


def test_an_illegal_pairing_is_a_row(cli, fake):  # noqa: F811
    code, _, err = cli("-m", *TINY, "method=evit", "treatment=remove,reactivate,preserve")
    assert code == 3 and err.count("error: ") == 1 and "invalid: selector 'evit' x treatment 'reactivate'" in err
    assert sorted(r["status"] for r in cli.rows()) == ["invalid", "ok", "ok", "ok"]
    assert fake.built == ["none", "evit", "evit"]


def test_a_failing_dense_model_fails_the_rows_that_start_from_it(cli, fake, monkeypatch):  # noqa: F811
    def broken(self, cfg):
        raise ValueError("no such heads")

    monkeypatch.setattr(fake, "build_model", broken)
    code, out, err = cli("-m", *TINY, "method=evit", "treatment=remove,preserve")
    assert code == 3 and err.count("which ended as failed: ValueError: no such heads") == 1
    assert out.count("no such heads") == 1, "in the table"
    assert err.count("error: ") == 1 and err.startswith("error: EViT remove 0.7 (fake, seed 0), EViT preserve 0.7 (fake, seed 0): failed: ")


@pytest.mark.parametrize("sweep", [True, False])
def test_a_long_reason_is_told_once_and_short_with_the_file_of_the_rest(cli, fake, monkeypatch, sweep):  # noqa: F811
    """Such as the keys of a checkpoint of another model, of a dense model that two rows start from and that is a row itself."""
    keys = "; ".join(f"missing blocks.{n}.attn.qkv.weight (288, 96)" for n in range(99))

    def broken(self, cfg):
        raise ValueError(f"99 keys differ: {keys}")

    monkeypatch.setattr(fake, "build_model", broken)
    code, out, err = cli("-m", *TINY, "method=dense,evit,ats") if sweep else cli(*TINY, "method=evit")
    assert code == (3 if sweep else 2) and err.count("99 keys differ") == 1 and len(err) < 600
    assert out.count("99 keys differ") == int(sweep), "in the table"
    (place,) = re.findall(r"the rest is in (\S+error.txt)", err)
    assert "missing blocks.98." in (cli.folder / place).read_text()


def test_a_wrong_root_of_a_sweep_is_told_once(cli):  # noqa: F811
    code, out, err = cli("-m", "scale=smoke", "data=coco", "data.root=nowhere", "method=evit,ats", "schedule.keep_rate=0.5,0.7")
    said = "data.root is 'nowhere', and there is no such folder"
    assert code == 3 and err.count(said) == 1 and out.count(said) == 1, "once as the error and once in the table"
    assert err.count("error: ") == 1 and "and 1 more: invalid" in err


def test_validate_only_reports_every_row(cli, fake):  # noqa: F811
    code, out, err = cli("-m", *TINY, "method=evit", "treatment=remove,reactivate", "validate_only=true")
    assert code == 3 and "sweep: 1 of 2 rows are valid" in out and err.count("error: ") == 1
    assert not (cli.folder / "results" / "rows").exists() and fake.built == []


def test_a_whole_table_validates_at_paper_scale(cli):  # noqa: F811
    code, out, err = cli("+experiment=table2_preserve", "scale=paper", "validate_only=true")
    assert (code, err) == (0, "") and "table2_preserve: 10 of 10 rows are valid" in out


def test_a_sweep_of_no_rows_is_an_error(cli):  # noqa: F811
    code, _, err = cli("+experiment=table2_preserve", "+rows/table2_preserve=glob(nothing*)", "scale=smoke")
    assert code in (2, 3) and err.startswith("error: ")


def test_a_command_line_value_replaces_a_sweep_axis(cli, fake):  # noqa: F811
    code, out, _ = cli("+experiment=table2_preserve", "+rows/table2_preserve=03_evit_remove", *TINY)
    assert code == 0 and "[1] EViT remove" in out and "[2]" not in out


def test_interruption_is_not_a_row(cli, fake, monkeypatch):  # noqa: F811
    def interrupted(self, cfg):
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "build_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli(*TINY)
    assert cli.rows() == []


def test_a_row_whose_process_died_is_a_failed_row(cli, fake, monkeypatch):  # noqa: F811
    """The note is written before the row is made: a launcher with a process a row finds it when that process is killed."""
    seen = []

    def look(config, *command):
        (folder,) = (cli.folder / "results" / ".sweeps").iterdir()
        seen.extend(read_notes(folder))
        return original(config, *command)

    original = experiment.run_row
    monkeypatch.setattr(experiment, "run_row", look)
    cli("-m", *TINY, "seed=0")
    assert seen[0]["row"]["status"] == "failed" and "ended before the row was done" in seen[0]["row"]["reason"]
    assert not (cli.folder / "results" / ".sweeps").exists()


def test_a_killed_run_goes_on_from_its_checkpoint(cli, fake):  # noqa: F811
    """SIGKILL in the middle of training: the next run resumes and ends with a row."""
    script = (
        "import sys; from tests.helpers.fakes import FakeTask; from tokenprune import registry; registry.names('task');"
        "registry._plugins['task']['fake'] = FakeTask; from tokenprune.run import main; sys.argv[0] = 'run'; main()"
    )
    settings = [*TINY[:-1], "dense.training.iterations=60", "dense.training.checkpoint_every=1", f"results_dir={cli.folder}/results"]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", script, *settings], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while not list(cli.folder.glob("results/rows/*/last.pt")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (checkpoint,) = cli.folder.glob("results/rows/*/last.pt")
    done = torch.load(checkpoint, weights_only=True)["iteration"]
    assert 0 < done < 60 and cli.rows() == []
    steps = []
    fake.on_batch = steps.append
    assert cli(*settings)[0] == 0
    assert len(steps) == 60 - done and len(cli.rows()) == 1 and not checkpoint.exists()


@pytest.mark.parametrize("sweep", [True, False])
def test_an_exception_is_told_with_its_place_and_where_the_traceback_lies(cli, fake, sweep):  # noqa: F811
    code, _, err = cli(*(["-m"] if sweep else []), *TINY, "method=random", "init=scratch")
    assert code == (3 if sweep else 2) and len(err.splitlines()) == 1
    place, trace = re.search(r"KeyError: 'a bug somewhere' \((\S+):\d+\) \(traceback: (\S+error.txt)\)", err).groups()
    assert place == "helpers/fakes.py" and "Traceback" in (cli.folder / trace).read_text()


def test_a_schedule_that_drops_nothing_is_told_on_the_screen_and_in_the_row(cli, fake):  # noqa: F811
    idle = "schedule 'stages' decides in none of the 12 blocks: nothing is dropped, although schedule.keep_rate is 0.5"
    run = [*TINY, "method=evit", "treatment=remove", "init=scratch", "schedule.keep_rate=0.5"]
    code, _, err = cli(*run, "schedule.blocks=[]")
    assert code == 0 and err.count(f"warning: EViT: {idle}") == 1
    (row,) = cli.rows()
    assert row["notes"].count(idle) == 1
    code, _, err = cli(*run, "validate_only=true")
    assert code == 0 and "warning" not in err
