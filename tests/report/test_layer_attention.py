"""Figure 9 on small models: panels, numbers, errors."""

import pandas as pd
import pytest
import torch

from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure.attention import attention_of
from tokenprune.registry import build
from tokenprune.report.figures.layer_attention import attended, draw, words
from tokenprune.runs.load import load_row
from tokenprune.runs.reports import Sweep


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return folder, [made(folder, f"method={method}", "task=classification") for method in ("dense", "svit")]


@pytest.mark.system
def test_files_and_numbers(results, tmp_path, capsys):
    folder, rows = results
    wrote = build("report", {"name": "layer_attention", "pictures": [1, 99]})(Sweep("made_up", rows, tmp_path, folder))
    assert wrote == ["layer_attention.png", "layer_attention.csv"]
    numbers = pd.read_csv(tmp_path / wrote[1])
    assert numbers.groupby("method", sort=False).size().to_dict() == {"Dense": 12, "SViT": 12}
    dense, svit = (numbers[numbers["method"] == name].reset_index() for name in ("Dense", "SViT"))
    assert (dense["kept_share"] == 1).all() and dense["attention_covered"].tolist() == pytest.approx([1.0] * 12)
    used = next(load_row(rows[1], folder).pictures([1])).used
    assert svit["kept_share"].tolist() == pytest.approx(used.float().mean((1, 2)).tolist())
    model = load_row(rows[0], folder)
    with attention_of(model.model) as seen:
        next(model.pictures([1]))
    whole = seen[0].blocks[7].view(8, 8)
    assert svit["attention_covered"][7] == pytest.approx(float(whole[used[7]].sum() / whole.sum()))
    assert "attention of Dense in blocks that drop tokens: the" in capsys.readouterr().out


def test_every_block_of_every_method_is_a_panel(results):
    folder, rows = results
    seen = {row["label"]: attended(load_row(row, folder), [0, 1]) for row in rows}
    assert len(draw(seen, "made up").axes) == 2 * (1 + 2 * 12)
    assert torch.isnan(seen["SViT"][0].attention).any() and not torch.isnan(seen["Dense"][0].attention).any()


def test_methods_that_drop_nothing_are_said_to():
    numbers = pd.DataFrame({"method": ["a", "b"], "kept_share": [1.0, 1.0], "attention_covered": [1.0, 1.0]})
    assert words(numbers).endswith("no block drops a token")


def test_there_must_be_something_to_compare(results, tmp_path):
    with pytest.raises(InvalidConfig, match=r"layer_attention.methods is \['svit'\]; allowed: two or more"):
        build("report", {"name": "layer_attention", "methods": ["svit"]})
    with pytest.raises(TokenPruneError, match="no finished row of method 'svit'"):
        build("report", "layer_attention")(Sweep("made_up", results[1][:1], tmp_path, results[0]))
