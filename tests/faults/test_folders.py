"""Results folders that take no files, from the beginning or at some point: rows with a status, one line, and nothing computed is lost."""

import errno
import json
from pathlib import Path

import pytest

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.runs.sweep import notes_folder
from tokenprune.utils import files

pytestmark = pytest.mark.system


@pytest.fixture
def full(monkeypatch):
    """A disk that is full for files whose names hold a word, from the call on."""

    def fill(*words: str) -> None:
        original = files.os.replace

        def replace(part, path):
            if any(word in Path(path).name for word in words):
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(part, path)

        monkeypatch.setattr(files.os, "replace", replace)

    return fill


@pytest.fixture
def blocked(tmp_path) -> str:
    """A results folder that cannot be made, for root either: a file is in its place."""
    notes_folder.cache_clear()
    (tmp_path / "file").write_text("")
    return str(tmp_path / "file" / "results")


def test_a_folder_that_cannot_be_made_is_one_line(cli, fake, blocked):  # noqa: F811
    code, out, err = cli(*TINY, f"results_dir={blocked}")
    assert code == 2 and err.count("\n") == 1 and "cannot write into" in err and "Traceback" not in out + err and fake.built == []


def test_a_sweep_there_has_rows_with_a_status_and_prints_its_table(cli, fake, blocked, tmp_path):  # noqa: F811
    code, out, err = cli("-m", *TINY, f"results_dir={blocked}", "method=dense,evit")
    assert code == 3 and "Traceback" not in out + err and out.count(": failed") >= 2 and "cannot write into" in err
    assert "| " in out and fake.built == [] and [path.name for path in Path(tmp_path).iterdir()] == ["file"]


def test_rows_with_processes_of_their_own_do_not_begin_there(cli, fake, blocked):  # noqa: F811
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra `sweeps` is not installed")
    code, _, err = cli("-m", *TINY, f"results_dir={blocked}", "seed=0,1", "launcher=joblib")
    assert code == 2 and err.count("\n") == 1 and "cannot write into" in err


def test_a_row_for_which_there_is_no_room_is_printed(cli, fake, full):  # noqa: F811
    full("result.json")
    code, out, err = cli(*TINY)
    assert code == 2 and "No space left on device" in err and "box AP 40.0" in out and "Traceback" not in out + err
    (text,) = [line for line in out.splitlines() if line.startswith("{")]
    assert json.loads(text)["metrics"]["ap_box"] == 40.0


def test_weights_and_checkpoints_for_which_there_is_no_room_cost_no_result(cli, fake, full):  # noqa: F811
    full("model.safetensors", "last.pt")
    code, out, err = cli(*TINY)
    assert code == 2 and "model.safetensors: No space left" in err and "last.pt: No space left" in err and "box AP 40.0" in out
    (row,) = cli.rows()
    assert row["status"] == "ok" and any(note.startswith("not written: cannot write") for note in row["notes"])


def test_a_sweep_on_a_disk_that_fills_up_ends_with_its_table(cli, fake, full):  # noqa: F811
    full("result.json", "row-", "sweep.json")
    code, out, err = cli("-m", *TINY, "method=dense", "seed=0,1")
    assert code == 3 and out.count(": ok") == 2 and "Traceback" not in out + err
    assert len([line for line in out.splitlines() if line.startswith("{")]) == 2
    assert len((cli.tables() / "table.csv").read_text().splitlines()) == 3


def test_reports_that_cannot_be_written_are_printed(cli, fake):  # noqa: F811
    (cli.folder / "results").mkdir()
    (cli.folder / "results/tables").write_text("in the way")
    code, out, err = cli("-m", *TINY, "method=dense", "seed=0,1")
    assert code == 3 and "Dense" in out and "| " in out and "cannot write" in err and "Traceback" not in out + err
    assert len(cli.rows()) == 2
