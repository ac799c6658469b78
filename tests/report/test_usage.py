"""The report `usage`: made-up pictures counted by hand, files of real rows of each task, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers.fakes import row
from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import build
from tokenprune.report.figures.usage import in_words, over_blocks
from tokenprune.runs.load import load_row
from tokenprune.runs.reports import Sweep
from tokenprune.tasks.pictures import Picture, Predictions


def picture(number, *blocks, left=None):
    """Cells of two pixels in one line; masks cover the `left` ones of them, None: the data have no masks."""
    used = torch.tensor([[[cell == "x" for cell in block]] for block in blocks])
    pixels = np.zeros((2, 2 * used.shape[2], 3), np.uint8)
    mask = np.zeros((1, *pixels.shape[:2]), bool)
    mask[..., : 2 * (left or 0)] = True
    truth = None if left is None else Predictions(np.zeros((1, 4)), np.ones(1), mask)
    return Picture(number, pixels, used, 2, truth=truth)


def test_counts_an_image_and_block_by_hand():
    report = build("report", {"name": "usage"})
    pictures = [picture(0, "xxxx", "x...", "xx..", left=2), picture(7, "xxxx", "..xx", "....", left=2)]
    found = report.counted(iter(pictures))
    assert found.table[["picture", "block", "tokens", "kept", "pruned", "again", "following"]].values.tolist() == [
        [0, 0, 4, 4, 0, 0, 0],
        [0, 1, 4, 1, 3, 1, 1],
        [0, 2, 4, 2, 2, 0, 0],
        [7, 0, 4, 4, 0, 0, 0],
        [7, 1, 4, 2, 2, 0, 0],
        [7, 2, 4, 0, 4, 0, 0],
    ]
    assert found.table["foreground"].tolist() == [1, 0.5, 1, 1, 0, 0] and found.table["background"].tolist() == [1, 0, 0, 1, 1, 0]
    assert found.map.map.tolist() == [[2.0, 1.5, 1.5, 1.5]]
    means = over_blocks({"a": found}).set_index("block")
    assert means["kept_share"].tolist() == [1, 3 / 8, 1 / 4] and means.loc[1, "again_share"] == pytest.approx(1 / 6)
    assert pd.isna(means.loc[0, "again_share"]) and means.loc[1, "kept_share_std"] == pytest.approx(1 / 8) and set(means["pictures"]) == {2}
    assert in_words("a", means) == (
        "usage of a: a block uses 54.2% of the tokens, 8.3% of what a block prunes comes back, "
        "58.3% of foreground and 50.0% of background are used"
    )


def test_without_masks_there_is_no_foreground():
    found = build("report", {"name": "usage"}).counted([picture(0, "xx", "x.")])
    assert found.table["foreground"].isna().all()
    assert "foreground" not in in_words("a", over_blocks({"a": found}))


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_files_and_numbers_of_real_rows(task, tmp_path, capsys):
    if task == "detection":
        pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    rows = [made(tmp_path, f"method={method}", f"task={task}") for method in ("random", "variance")]
    folder = tmp_path / "t"
    folder.mkdir()
    wrote = build("report", {"name": "usage", "images": 2})(Sweep("made_up", rows, folder, tmp_path))
    assert sorted(wrote) == sorted(p.name for p in folder.iterdir()) == ["usage.csv", "usage.png", "usage_blocks.csv", "usage_map.csv"]
    assert (folder / "usage.png").read_bytes().startswith(b"\x89PNG") and "a block uses" in capsys.readouterr().out
    table = pd.read_csv(folder / "usage.csv")
    assert len(table) == 2 * 2 * 12 and table["foreground"].notna().any() == (task == "detection")
    pictures = list(load_row(rows[1], tmp_path).pictures(range(2), predict=False))
    here = table[table["row"] == rows[1]["label"]]
    assert here["kept"].tolist() == torch.cat([p.used.flatten(1).sum(1) for p in pictures]).tolist()
    cells = pd.read_csv(folder / "usage_map.csv").groupby("row")["mean_blocks"].sum()
    assert cells[rows[1]["label"]] == pytest.approx(here["kept"].sum() / 2)


def test_what_it_refuses(tmp_path):
    with pytest.raises(TokenPruneError, match="the validation split has no pictures"):
        build("report", {"name": "usage"}).counted(iter(()))
    with pytest.raises(TokenPruneError, match=r"shows pruned rows that are ok; rows: A \(failed\)"):
        build("report", {"name": "usage"})(Sweep("made_up", [row(label="A", status="failed")], tmp_path, tmp_path))
    with pytest.raises(InvalidConfig, match="reports.usage.images is 0"):
        build("report", {"name": "usage", "images": 0})
    with pytest.raises(InvalidConfig, match="reports.usage.cover is 0"):
        build("report", {"name": "usage", "cover": 0.0})
