"""Cropr's Table 5 and Figure 3b as experiments: which rows there are, what each differs in, and the paper's numbers."""

import csv
from pathlib import Path

import pytest

from tokenprune.runs.config import compose, resolve
from tokenprune.runs.plugin_options import defaults
from tokenprune.runs.rows import rows_of
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate
from tokenprune.utils.paths import config_dir, expected_of

pytestmark = pytest.mark.system

GROUPS = ("cropr_table5_fusion", "cropr_fig3_overhead")
PAPER = Path(__file__).parents[2].parent / "shared" / "reference" / "paper" / "cropr_table5_fusion.csv"
# Of EVA-02-L/16 at 512 px: weight layers of the encoder and attention products; DToP's heads are not in a plan.
PLANNED = {
    "00_dense": 362, "01_cross_attention": 203, "02_token_concat": 191, "03_cross_attention_concat": 207, "04_mhsa_concat": 207,
    "05_dtop": 191, "06_last_layer_fusion": 204,
}  # fmt: skip


def rows(experiment, *overrides):
    names = list(rows_of(experiment))
    return {name: resolve(compose([f"+experiment={experiment}", f"+rows/{experiment}={name}", *overrides])) for name in names}


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
@pytest.mark.parametrize("experiment", GROUPS)
def test_every_row_validates_at_every_scale(experiment, scale):
    for name, config in rows(experiment, f"scale={scale}").items():
        words = validate(config, files=False)
        if name != "00_dense":  # nothing leaves before the last block but one
            assert f"block {10 if scale != 'paper' else 22} keep" in words and f"block {11 if scale != 'paper' else 23} keep" not in words
        if experiment == "cropr_table5_fusion" and scale == "paper":
            assert words.endswith(f"planned: {PLANNED[name]} GMAC"), words
    assert f"+experiment={experiment}" in (config_dir().parent / "experiments" / experiment / "README.md").read_text()


def test_rows_of_table_5_differ_in_what_stands_behind_the_last_block():
    found = rows("cropr_table5_fusion", "scale=paper")
    for name in ("01_cross_attention", "03_cross_attention_concat", "04_mhsa_concat"):
        assert found[name]["treatment"] == {"name": name.split("_", 1)[1], "proj": True}
    assert [found[name]["treatment"]["name"] for name in ("02_token_concat", "05_dtop")] == ["preserve", "remove"]
    assert {r["selector"]["name"] for name, r in found.items() if name not in ("00_dense", "05_dtop")} == {"cropr"}
    taught = {"auxiliary": {"weight": 1.0, "reduce": "sum"}}
    assert all(r["losses"] == taught and r["schedule"]["remove"] == 40 for name, r in found.items() if name != "00_dense")
    assert found["00_dense"]["losses"] == {}


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_two_rows_are_those_of_figure_5(scale):
    found = rows("cropr_table5_fusion", f"scale={scale}")
    for mine, other in (("00_dense", "00_dense"), ("06_last_layer_fusion", "04_cropr")):
        theirs = resolve(compose(["+experiment=cropr_fig5_segmentation", f"+rows/cropr_fig5_segmentation={other}", f"scale={scale}"]))
        assert run_key(found[mine]) == run_key(theirs)
    assert len({run_key(config) for config in found.values()}) == 7


def test_expected_numbers_are_the_papers():
    if not PAPER.is_file():
        pytest.skip(f"the paper's numbers are not here: {PAPER}")
    lines = {path: list(csv.DictReader(path.open(newline=""))) for path in (PAPER, expected_of("cropr_table5_fusion"))}
    paper, own = lines.values()
    labels = {"No pruning": "Dense"}
    assert [(labels.get(p["method"], p["method"]), p["miou"], p["gflops"], p["params_million"]) for p in paper] == [
        (o["method"], o["miou"], o["gmacs_pixels"], o["parameters"]) for o in own
    ]
    found = rows("cropr_table5_fusion", "scale=paper").values()
    assert [(r["label"], r["treatment"]["name"]) for r in found] == [(o["method"], o["treatment"]) for o in own]


def test_rows_of_figure_3b_differ_in_how_tokens_are_chosen():
    found = rows("cropr_fig3_overhead", "scale=paper")
    usual = defaults("selector", "cropr")
    assert [r["selector"] for r in found.values()][1:] == [
        {"name": "random", "seed": None},
        {"name": "cropr", **usual, "queries": "patches"},
        {"name": "cropr", **usual, "queries": "patches", "aggregate": False},
    ]
    assert all(r["treatment"]["name"] == "last_layer_fusion" for name, r in found.items() if name != "00_dense")
    assert all((r["init"], r["training"]["iterations"], r["measure"]) == ("scratch", 0, ["cost", "throughput"]) for r in found.values())
    labels = [line["method"] for line in csv.DictReader(expected_of("cropr_fig3_overhead").open(newline=""))]
    assert [r["label"] for r in found.values()] == labels


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
def test_dtop_by_name(scale):
    dtop = resolve(compose(["task=segmentation", "method=dtop", f"scale={scale}"]))
    assert "GMAC" in validate(dtop, files=False) and dtop["losses"] == {"auxiliary": {"weight": 1.0, "reduce": "sum"}}
