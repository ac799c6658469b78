"""Several results folders as one page: copies, machines, pictures of one name, other versions."""

import json
import re

import pytest

from tests.helpers.fakes import row
from tests.helpers.report_rows import EXPERIMENT, classified, judged
from tokenprune.report.__main__ import main
from tokenprune.report.page.merge import gather_all, short_names
from tokenprune.runs.results import write_result


@pytest.fixture
def two(tmp_path):
    """Two folders: one row is a copy, one device is the same by name, one is another."""
    one, other = tmp_path / "laptop" / "results", tmp_path / "server" / "results"
    copied = classified("d0", "none", 75.0, 4.0, environment={"device": "cpu"})
    for folder in (one, other):
        judged(folder, copied, 150)
    judged(one, classified("e0", "evit", 60.0, 2.0, rate=0.7, environment={"device": "cpu"}), 120)
    judged(other, classified("e0", "evit", 62.0, 2.0, rate=0.7, environment={"device": "cpu"}), 124)
    judged(other, classified("t0", "tome", 70.0, 2.5, environment={"device": "H200"}), 140)
    return one, other


def facts(found):
    (experiment,) = found.experiments
    data = experiment.data
    return experiment, sorted(zip(data["key"], data["device"], data["folder"], strict=True))


def test_copies_count_once_and_devices_of_one_name_are_told_apart(two):
    experiment, seen = facts(gather_all(two))
    assert seen == [
        ("d0", "cpu, laptop/results", "laptop/results"), ("e0", "cpu, laptop/results", "laptop/results"),
        ("e0", "cpu, server/results", "server/results"), ("t0", "H200", "server/results"),
    ]  # fmt: skip
    assert experiment.stored[("e0", "cpu, server/results")].results_dir == two[1]
    assert experiment.stored[("e0", "cpu, server/results")].row["metrics"]["top1"] == 62.0
    _, seen = facts(gather_all(two, one_machine=True))
    assert [device for _, device, _ in seen] == ["cpu", "cpu", "cpu", "H200"]


def test_one_folder_given_twice_is_one_folder(two):
    assert "folder" not in gather_all([two[0], two[0]]).experiments[0].data


def test_the_page_names_machines_and_keeps_their_tables_apart(two, tmp_path):
    assert main([*map(str, two), "--out", str(tmp_path / "out"), "--static"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "Token pruning: laptop/results, server/results" in text
    for device in ("cpu, laptop/results", "cpu, server/results", "H200"):
        assert f"device: {device}" in text
    assert "1 experiment with 4 rows: 4 ok." in text


def test_pictures_of_one_name_are_kept_with_their_folders(two, tmp_path):
    from PIL import Image

    for number, folder in enumerate(two):
        place = folder / "tables" / EXPERIMENT
        place.mkdir(parents=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(place / "usage.png")
    assert main([*map(str, two), "--out", str(tmp_path / "out"), "--static"]) == 0
    names = {path.name for path in (tmp_path / "out" / EXPERIMENT).glob("usage*.png")}
    assert names == {f"usage_{machine}_results_tables_{EXPERIMENT}.png" for machine in ("laptop", "server")}


@pytest.mark.parametrize(
    ("paths", "names"),
    [(("a/x", "b/y"), ["x", "y"]), (("a/x", "b/x"), ["a/x", "b/x"]), (("a/x", "a/b/x", "c/x"), ["a/x", "b/x", "c/x"])],
)
def test_names_are_the_shortest_that_differ(paths, names, tmp_path):
    assert short_names([tmp_path / "r" / path for path in paths]) == names


def other_version(folder, key="f0"):
    path = write_result(folder / "rows" / key, row(key=key))
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 7, "new": 1, "environment": {"tokenprune": "9.1"}}))


def test_a_folder_of_another_version_is_refused_by_name(two, tmp_path, capsys):
    other_version(tmp_path / "newer")
    assert main([str(two[0]), str(tmp_path / "newer"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'newer'} was written by tokenprune 9.1: its 1 rows are of schema 7, and this version reads schema 1" in said
    assert not (tmp_path / "out").exists()


def test_rows_of_another_version_beside_readable_ones_are_left_out_by_name(two, tmp_path, capsys):
    other_version(two[1])
    assert main([*map(str, two), "--out", str(tmp_path / "out"), "--static"]) == 0
    said = capsys.readouterr().err
    assert "left out: server/results/rows/f0: result row f0 does not follow schema 1: tokenprune 9.1 wrote it in schema 7" in said


def test_an_experiment_that_no_folder_has_is_refused(two, capsys):
    assert main([*map(str, two), "--experiment", "tabel2"]) == 2
    assert f"laptop/results and server/results has no experiment tabel2; it has {EXPERIMENT}" in capsys.readouterr().err
