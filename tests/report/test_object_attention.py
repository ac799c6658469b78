"""Attention on objects: planted attention has the numbers that one counts by hand."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure.attention import Attended
from tokenprune.registry import build
from tokenprune.report.figures.object_attention import ObjectAttention, draw, in_words
from tokenprune.runs.reports import Sweep
from tokenprune.tasks.pictures import Picture, Predictions

BLOCKS = torch.tensor([[4.0, 2, 1, 1], [1, 1, 1, 1]])  # two blocks, a grid of 2 x 2


def picture(number, mask):
    """A picture of 2 x 2 cells of two pixels each, with one object where `mask` (2,2) is true."""
    masks = np.asarray(mask, dtype=bool).repeat(2, 0).repeat(2, 1)[None]
    truth = Predictions(np.zeros((1, 4)), np.ones(1), masks)
    return Picture(number, np.zeros((4, 4, 3), dtype=np.uint8), torch.ones(2, 2, 2, dtype=torch.bool), 2, truth=truth)


@pytest.fixture
def planted(monkeypatch):
    """A loaded row of three pictures: an object in one cell, in two cells, and nowhere."""
    pictures = [picture(0, [[1, 0], [0, 0]]), picture(1, [[1, 1], [0, 0]]), picture(2, np.zeros((2, 2)))]

    @contextmanager
    def attention_of(_):
        yield [Attended(BLOCKS, (2, 2)) for _ in pictures]

    monkeypatch.setattr("tokenprune.measure.attention.attention_of", attention_of)
    return SimpleNamespace(model=None, pictures=lambda numbers, predict: pictures)


def test_shares_are_those_counted_by_hand(planted):
    table = ObjectAttention().measured(planted)
    assert table["pictures"].tolist() == [2, 2] and table["objects"].tolist() == pytest.approx([0.375, 0.375])
    assert table["attention"].tolist() == pytest.approx([(4 / 8 + 6 / 8) / 2, (1 / 4 + 2 / 4) / 2])
    assert table["over_chance"].tolist() == pytest.approx([0.625 / 0.375, 1.0])
    among = [0.5 / 0.25, 0.625 / 0.375, 0.625 / 0.375, 0.75 / 0.5]  # all resamples of two pictures
    assert table["over_chance_se"][0] == pytest.approx(np.std(among), rel=0.1) and table["over_chance_se"][1] < 1e-6
    assert in_words("A", table) == "A: objects get 1.0 to 1.7 times the attention of chance, by block; they cover 38%"
    (axis,) = draw(table.assign(row="A"), "made up").axes
    assert axis.lines[0].get_ydata().tolist() == pytest.approx(table["over_chance"].tolist())


def test_pictures_without_objects_or_masks_are_told(planted):
    with pytest.raises(TokenPruneError, match="none of 3 pictures has an object"):
        ObjectAttention().measured(SimpleNamespace(model=None, pictures=lambda *_, **__: [picture(0, np.zeros((2, 2)))] * 3))
    with pytest.raises(InvalidConfig, match=r"object_attention.cover is 0.0; allowed: above 0"):
        build("report", {"name": "object_attention", "cover": 0})


@pytest.mark.system
def test_rows_that_drop_nothing_are_shown(tmp_path, capsys):
    rows = [made(tmp_path, f"method={method}", "task=detection") for method in ("dense", "evit")]
    report = build("report", {"name": "object_attention", "images": 3})
    assert report(Sweep("made_up", rows, tmp_path, tmp_path)) == ["object_attention.png", "object_attention.csv"]
    numbers = pd.read_csv(tmp_path / "object_attention.csv")
    assert numbers["row"].unique().tolist() == ["Dense"] and (numbers["attention"].between(0, 1)).all()
    assert "Dense: objects get" in capsys.readouterr().out
    with pytest.raises(TokenPruneError, match=r"rows that drop nothing and are ok; rows: EViT \(ok\)"):
        report(Sweep("made_up", rows[1:], tmp_path, tmp_path))
