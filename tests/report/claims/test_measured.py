"""Which lines stand on a side, setting by setting, and which number the paper has for it."""

import math

import pytest

from tests.helpers.claims import expected, measured, rows
from tokenprune.errors import DatasetError
from tokenprune.report.claims.declared import Measure, Side
from tokenprune.report.claims.measured import lines_of, printed

MINE = Measure("mine", ("top1",))


def side(**where):
    return Side(where)


def found(folder, measure=MINE, chosen=()):
    return list(lines_of(measure, folder, set(chosen)))


def test_rows_of_a_label_by_seed_without_those_that_failed(tmp_path):
    measured(tmp_path, [*rows("A", [60, 61, 62]), *rows("B", [50]), *rows("A", [0], status="diverged", keep_rate=0.5)])
    (lines,) = found(tmp_path)
    assert lines.values(side(method="A"), "top1") == {0: 60, 1: 61, 2: 62} and lines.named == "shapes, demo"
    assert lines.values(side(method="C"), "top1") == {} == lines.values(side(method="A", block=3), "top1")
    assert lines.values(side(method="A"), "ap_box") == {}


def test_other_data_and_devices_are_settings_of_their_own(tmp_path):
    measured(tmp_path, [*rows("A", [60]), *rows("A", [70], device="cuda"), *rows("A", [80], data="imagefolder")], "photos.csv")
    assert [lines.values(side(method="A"), "top1") for lines in found(tmp_path)] == [{0: 60}, {0: 70}, {0: 80}]
    assert [lines.named for lines in found(tmp_path)] == ["shapes, demo", "shapes, demo", "photos, demo"]


def test_a_fact_that_sides_name_is_no_setting(tmp_path):
    measured(tmp_path, [*rows("A", [60], size="base"), *rows("A", [70], size="huge")])
    assert len(found(tmp_path)) == 2
    (lines,) = found(tmp_path, chosen=["size"])
    huge, base = side(method="A", size="huge"), side(method="A", size="base")
    assert lines.values(huge, "top1") == {0: 70} and lines.size == ""
    assert lines.values(Side({"method": "A", "size": "huge"}, less=base), "top1") == {0: 10} and huge.value is None


def test_several_rows_of_a_seed_are_no_side(tmp_path):
    measured(tmp_path, [*rows("A", [60]), *rows("A", [70], keep_rate=0.5)])
    (lines,) = found(tmp_path)
    with pytest.raises(DatasetError, match=r"table.csv: A is several rows of seed 0; name a column in"):
        lines.values(side(method="A"), "top1")
    assert lines.values(side(method="A", keep_rate=[0.5, 0.6]), "top1") == {0: 70}


def test_a_table_that_another_one_holds_is_left_out(tmp_path):
    measured(tmp_path, rows("A", [60, 61]), "three_seeds.csv")
    measured(tmp_path, rows("A", [60]))
    assert [lines.path.name for lines in found(tmp_path)] == ["three_seeds.csv"]


def test_lines_of_a_figure_are_averaged(tmp_path):
    lines = [{"block": block, "picture": picture, "kept": block + picture} for block in (0, 1, 2) for picture in (0, 2)]
    measured(tmp_path, lines, "figure.csv")
    (figure,) = found(tmp_path, Measure("mine", ("share",), "figure.csv"))
    assert figure.values(Side({"block": [1, 2]}, column="kept"), "share") == {0: 2.5} and figure.named == "figure"


def test_the_papers_number_of_a_side(tmp_path):
    lines = [
        {"method": "A", "treatment": "", "size": "tiny", "top1": 80, "fps": 30},
        {"method": "A", "treatment": "", "size": "small", "top1": 82, "fps": 15},
        {"method": "Dense", "treatment": "none", "size": "tiny", "top1": "diverged", "fps": 20},
    ]
    expected(tmp_path, lines)
    a = side(method="A", treatment="remove", keep_rate=0.7)
    assert printed(a, MINE, "top1", tmp_path) == 80 and printed(a, MINE, "top1", tmp_path, "small") == 82
    assert printed(a, Measure("mine", ("speedup",), printed="fps", over="Dense"), "speedup", tmp_path) == 1.5
    assert printed(Side(a.where, less=Side(value=1.0)), MINE, "top1", tmp_path) == 79
    assert printed(Side({"method": "A, tuned"}, printed={"method": "A"}), MINE, "top1", tmp_path) == 80
    assert printed(Side(value=0.5), MINE, "top1", tmp_path) == 0.5
    assert math.isnan(printed(side(method="Dense"), MINE, "top1", tmp_path))  # a word
    assert math.isnan(printed(side(method="B"), MINE, "top1", tmp_path)) and math.isnan(printed(a, MINE, "miou", tmp_path))
    assert math.isnan(printed(a, Measure("other", ("top1",)), "top1", tmp_path))
    assert printed(a, Measure("other", ("top1",), expected="mine"), "top1", tmp_path) == 80
