"""SViT's Table 1 comes from declared facts: it equals the paper's where it should, and follows a fact that changes."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.fakes import cli  # noqa: F401
from tokenprune.methods.treatments.plain import Remove
from tokenprune.registry import get
from tokenprune.report.tables.formats import to_text
from tokenprune.report.tables.taxonomy import CELLS, Taxonomy
from tokenprune.runs.presets import files
from tokenprune.utils.paths import expected_of

WITHOUT_FILE = {"algm", "atc", "diffrate", "frequency", "mctf", "pitome", "ppt", "representation_shift", "tofu"}
EXPECTED = expected_of("table1_taxonomy")
PAPER = Path(__file__).parents[2].parent / "shared" / "reference" / "paper" / "svit_table1_taxonomy.csv"


def lines(**options) -> dict[str, dict]:
    return {line["method"]: line for line in Taxonomy.of(EXPECTED, **options).data.to_dict("records")}


def test_the_papers_methods_have_the_papers_cells():
    found = lines(others=False)
    assert list(found) == ["svit", "dynamicvit", "ats", "evo_vit", "evit"]
    cells = {name: tuple(line[cell] for cell in CELLS) for name, line in found.items()}
    assert cells == {
        "svit": ("gating module", "yes", "yes", "yes"),
        "dynamicvit": ("gating module", "no", "no", "no"),
        "ats": ("attention-based", "yes", "no", "no"),
        "evo_vit": ("attention-based", "no", "yes", "no"),
        "evit": ("attention-based", "no", "no", "no"),
    }


def test_where_a_method_works_otherwise_than_listed_both_are_said():
    line = lines()["evo_vit"]
    assert (line["reactivate"], line["reactivate_by_design"], line["reactivate_agrees"]) == ("no", "yes", "as listed")
    text = to_text(Taxonomy.of(EXPECTED))
    assert "no (by design yes)" in text and "`treatment_labels` of conf/method/evo_vit.yaml" in text and "footnote 2" in text
    assert "20 of 20 cells agree, 1 of them only as the method is listed" in text
    assert "DynamicViT: its gates vary the number of tokens in training; at test time it is fixed" in text


@pytest.mark.parametrize(
    "owner, fact, value, method, cell, word",
    [
        (lambda: get("selector", "svit"), "budget", "fixed", "svit", "dynamic_rate", "no"),
        (lambda: get("selector", "dynamicvit"), "budget", "dynamic", "dynamicvit", "dynamic_rate", "yes"),
        (lambda: get("selector", "evit"), "module", "coin toss", "evit", "selection_module", "coin toss"),
        (lambda: Remove, "remembers", True, "ats", "preserve", "yes"),
    ],
    ids=["svit", "dynamicvit", "evit", "remove"],
)
def test_a_changed_fact_changes_the_table(monkeypatch, owner, fact, value, method, cell, word):
    assert lines()[method][f"{cell}_agrees"] == "yes"
    monkeypatch.setattr(owner(), fact, value)
    line = lines()[method]
    assert (line[cell], line[f"{cell}_agrees"]) == (word, "no")
    assert f"differs: {line[f'{cell}_paper']}" in to_text(Taxonomy.of(EXPECTED)) and "20 of 20" not in to_text(Taxonomy.of(EXPECTED))


def test_other_methods_are_listed_below_without_agreement():
    found = lines()
    assert set(found) == {*(path.stem for path in files("method")), *WITHOUT_FILE} - {"dense"}
    assert (found["diffrate"]["model"], found["diffrate"]["preserve"], found["algm"]["dynamic_rate"]) == ("DiffRate", "yes (merged)", "yes")
    assert found["cropr"]["reactivate"] == "all, before the last block" and found["tome"]["preserve"] == "yes (merged)"
    assert all(found[name][f"{cell}_agrees"] == "" for name in ("cropr", "tome", "evit_fused") for cell in CELLS)
    shown = Taxonomy.of(EXPECTED).shown
    assert shown["model"][5] == "not in the paper:" and "EViT (evit_fused)" in list(shown["model"])


def test_without_the_papers_file_there_are_no_paper_columns():
    table = Taxonomy.of(None)
    assert not any("paper" in name for name in table.shown) and "paper" not in to_text(table).replace("reading of papers", "")


def test_the_experiment_prints_and_writes_it(cli):  # noqa: F811
    code, out, err = cli("+experiment=table1_taxonomy")
    assert (code, err) == (0, "") and "20 of 20 cells agree" in out
    folder = cli.folder / "results" / "tables" / "table1_taxonomy"
    assert {p.name for p in folder.iterdir()} == {"sweep.json", "taxonomy.csv", "taxonomy.md", "taxonomy.tex"}
    assert pd.read_csv(folder / "taxonomy.csv").shape == (len(files("method")) + len(WITHOUT_FILE) - 1, 3 + 4 * len(CELLS))
    code, out, _ = cli("+experiment=table1_taxonomy", "reports.taxonomy.others=false")
    assert code == 0 and "Cropr" not in out


@pytest.mark.skipif(not PAPER.is_file(), reason="the transcribed table of the paper is not here")
def test_the_file_is_the_transcribed_table():
    with PAPER.open() as paper, EXPECTED.open() as ours:
        want, got = ([[line["model"], *(line[cell] for cell in CELLS)] for line in csv.DictReader(file)] for file in (paper, ours))
    assert got == want
