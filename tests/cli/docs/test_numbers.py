"""The tables of docs/experiments.md are what the committed files say."""

from pathlib import Path

import pandas as pd
import pytest

from tokenprune.cli.docs.numbers import tables

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]


@pytest.mark.system
def test_seeds_are_averaged_and_the_papers_numbers_stand_beside_them():
    table = tables(EXPERIMENTS)["table5_sota"]
    head, _, *lines = cells(table)
    svit = dict(zip(head, next(line for line in lines if line[0] == "SViT"), strict=True))
    rows = pd.read_csv(EXPERIMENTS / "table5_sota/measured/table.csv").query("label == 'SViT'")
    assert svit["box AP"] == f"{rows['ap_box'].mean():.1f} ± {rows['ap_box'].std():.1f}" and len(rows) == 3
    assert (svit["GMAC encoder"], svit["paper box AP"]) == (f"{rows['gmac_total'].mean():.3g}", "45.5")
    assert table.startswith("Measured: detection on shapes, scale demo; ") and table.endswith("In every line: seeds 3, status ok.")


def test_rows_of_other_data_have_a_table_of_their_own():
    found = tables(EXPERIMENTS)["cropr_fig5_segmentation"]
    assert found.count("Measured: segmentation on ") == 2 and "on semantic" in found and "on shapes" in found
