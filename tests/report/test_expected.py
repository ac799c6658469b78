"""The paper's numbers: which row they stand beside, words in their place, sources and notes below the table."""

import csv
import math
from pathlib import Path

import pytest

from tests.helpers.fakes import row
from tokenprune.errors import DatasetError
from tokenprune.report.tables.expected import Expected, size_of
from tokenprune.report.tables.formats import to_text
from tokenprune.report.tables.table import build
from tokenprune.runs.presets import read
from tokenprune.runs.rows import rows_of
from tokenprune.utils.paths import config_dir, expected_of

TABLES = {name: name for name in ("table2_preserve", "table3_reactivation", "table4_gating", "table5_sota")}
TABLES |= {name: name for name in ("cropr_table3_detection", "cropr_table4_ablations")} | {"table5_speed": "table5_sota"}
PAPER = Path(__file__).parents[2].parent / "shared" / "reference" / "paper"


def written(folder: Path, text: str) -> Path:
    (folder / "expected.csv").write_text(text)
    return folder / "expected.csv"


def sized(size: str, **changes) -> dict:
    backbone = {"size": size, "embed_dim": {"small": 384}.get(size, 192)}
    return row(config={"schedule": {"name": "stages", "keep_rate": 0.7}, "backbone": backbone}, **changes)


@pytest.mark.parametrize(
    "backbone, size",
    [
        ({"size": "small", "name": "x"}, "small"),
        ({"name": "vit_small"}, "small"),
        ({"name": "vit_demo"}, "tiny"),
        ({"size": ""}, "tiny"),
        ({"name": "eva02_large"}, "large"),
        ({"size": "", "model": "davit_giant"}, ""),
        ({"model": "davit_giant"}, "tiny"),
    ],
)
def test_the_size_of_a_backbone(backbone, size):
    assert size_of({"backbone": backbone}) == size and size_of({}) == "tiny"


def test_rows_are_matched_by_what_the_file_names(tmp_path):
    path = written(tmp_path, "method,treatment,keep_rate,cls,size,ap_box\nA,,,,,1\nA,,0.5,,,2\nA,,,random,small,3\nB,remove,,,,4\n")
    paper = Expected(path)
    assert paper.number("ap_box", method="A", treatment="x", keep_rate=math.nan, cls="learned", size="tiny") == 1
    assert paper.number("ap_box", method="A", keep_rate=0.5, size="tiny") == 2
    assert paper.number("ap_box", method="A", keep_rate=0.7, cls="random", size="small") == 3
    assert math.isnan(paper.number("ap_box", method="B", treatment="preserve")) and paper.of(method="C") == {}


@pytest.mark.parametrize("size, ap", [("tiny", "45.5"), ("small", "48.2"), ("", "45.5")])
def test_rows_get_the_numbers_of_their_size(size, ap):
    shown = build([sized(size, label="SViT", treatment="reactivate")], expected_of("table5_sota")).shown
    assert shown["paper box AP"][0] == ap


def test_sizes_are_a_column_where_there_are_several():
    rows = [sized(size, label="DynamicViT", treatment="remove") for size in ("tiny", "small")]
    table = build(rows, expected_of("table5_sota"))
    assert list(table.shown["size"]) == ["tiny", "small"] and list(table.shown["paper box AP"]) == ["41.2", "diverged"]
    assert list(table.shown["paper FPS whole"]) == ["23.10", "—"] and list(table.shown["paper FPS backbone"]) == ["36.45", "—"]


def test_sources_notes_and_a_caution_are_below_the_table():
    table = build([sized("tiny", label="SViT 2-layer MLP", treatment="reactivate")], expected_of("table4_gating"))
    text = to_text(table)
    assert "Paper: SViT Table 5: COCO" in text and "columns of the printed Table 4 are mixed up" in text
    assert text.count("mixed up") == 1 and "scale=demo on shapes: compare rows with rows" in text
    assert "Table 2" not in text
    ours = build([sized("tiny", label="SViT 2-layer MLP", scale="paper", data="coco")], expected_of("table4_gating"))
    assert "compare rows with rows" not in to_text(ours)
    assert "Paper" not in to_text(build([row(label="Mine")], expected_of("table4_gating")))


def test_a_file_of_another_form_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="unknown column AP; allowed: method, treatment"):
        build([row()], written(tmp_path, "method,AP\nA,1\n"))
    with pytest.raises(DatasetError, match="no column method"):
        build([row()], written(tmp_path, "treatment,ap_box\nA,1\n"))
    with pytest.raises(DatasetError, match="no readable table"):
        build([row()], tmp_path / "missing.csv")


@pytest.mark.parametrize("experiment", TABLES)
def test_every_label_of_a_file_is_the_label_of_a_row(experiment):
    labels = set()
    for chosen in rows_of(TABLES[experiment]).values():
        labels.add(chosen.get("label", read(config_dir() / "method" / f"{chosen['method']}.yaml")["label"]))
    expected = Expected(expected_of(experiment)).lines
    assert {line["method"] for line in expected} <= labels
    assert all(line["source"].startswith(("SViT Table", "Cropr Table")) for line in expected)


@pytest.mark.skipif(not PAPER.is_dir(), reason="the transcribed tables of the paper are not here")
def test_table5_is_the_transcribed_one():
    lines = Expected(expected_of("table5_sota")).lines
    with (PAPER / "svit_table5_sota.csv").open() as file:
        paper = list(csv.DictReader(file))
    numbers = ("treatment", "size", "ap_box", "ap_mask", "fps_whole", "fps_backbone")
    want = [[r["method"].replace("DeiT (dense)", "Dense"), *(r[n].replace("diverge", "diverged") for n in numbers)] for r in paper]
    assert [[r["method"], *(r[n] for n in numbers)] for r in lines] == want


@pytest.mark.skipif(not PAPER.is_dir(), reason="the transcribed tables of the paper are not here")
def test_croprs_table2_is_the_transcribed_one():
    """After the unpruned EVA-02 of the text; parameters in millions, FLOPs as GMAC."""
    lines = Expected(expected_of("cropr_table2_eva02")).lines[1:]
    with (PAPER / "cropr_table2_sota.csv").open() as file:
        paper = list(csv.DictReader(file))
    printed = {"params_billion": 1e3, "tflops": 1e3, "top1": 1, "images_per_second_a100": 1}
    want = [[float(r[name]) * unit for name, unit in printed.items()] for r in paper]
    columns = ("parameters", "gmacs_linear", "top1", "images_per_second")
    assert [[float(line[k]) for k in columns] for line in lines] == [pytest.approx(numbers) for numbers in want]
    others = [line["method"] for line in lines[2:]]
    ours = [chosen["label"] for name, chosen in rows_of("cropr_table2_eva02").items() if name >= "03"]
    assert others == [r["method"] for r in paper[2:]] == ours


@pytest.mark.skipif(not PAPER.is_dir(), reason="the transcribed tables of the paper are not here")
def test_croprs_table3_is_the_transcribed_one():
    """GMAC in layers are those of the text, which stand in the transcription's note."""
    lines = Expected(expected_of("cropr_table3_detection")).lines
    with (PAPER / "cropr_table3_detection.csv").open() as file:
        paper = list(csv.DictReader(file))
    columns = {"ap_box": "ap_box", "ap_mask": "ap_mask", "images_per_second_encoder": "fps_encoder", "speedup_encoder": "speedup_encoder",
               "images_per_second_whole": "fps_whole", "speedup_whole": "speedup_whole"}  # fmt: skip
    want = [[r["method"].replace("No pruning", "Dense"), *(r[name] for name in columns)] for r in paper]
    assert [[line["method"], *(line[name] for name in columns.values())] for line in lines] == want
    gmacs = {line["method"]: line["gmacs_linear"] for line in lines if line["gmacs_linear"]}
    assert paper[-1]["note"] == f"{gmacs['Dense']} GFLOPs unpruned, {gmacs['Cropr']} pruned" and set(gmacs) == {"Dense", "Cropr"}


def test_linear_gmac_and_parameters_stand_beside_the_papers(tmp_path):
    path = written(tmp_path, "method,gmacs_linear,parameters\nA,180,300\nB,70,\n")
    first = {"gmac_linear": 181.5, "gmac_selector": 1.0, "parameters": 305_100_000}
    rows = [row(label="A", cost=first), row(label="B", cost={"gmac_linear": 92.1, "gmac_selector": 0.0})]
    shown = build(rows, path).shown
    assert (list(shown["linear GMAC"]), list(shown["paper linear GMAC"])) == (["182", "92.1"], ["180", "70"])
    assert (list(shown["M parameters"]), list(shown["paper M parameters"])) == (["305", "—"], ["300", "—"])
    assert not {"linear GMAC", "M parameters"} & set(build(rows, None).shown)


def test_the_speed_table_has_the_frames_per_second_of_table5():
    sota, speed = (Expected(expected_of(name)).lines for name in ("table5_sota", "table5_speed"))
    columns = ("method", "treatment", "keep_rate", "size", "fps_whole", "fps_backbone")
    assert [[line[k] for k in columns] for line in speed] == [[line[k] for k in columns] for line in sota if line["fps_whole"]]
