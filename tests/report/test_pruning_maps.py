"""Pruning maps and fused features: numbers by hand, files, errors. What they look like has to be looked at."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.registry import build
from tokenprune.report.figures.fused_features import captured, same_class
from tokenprune.report.figures.pruning_maps import by_class, classes_of_cells, exits, words
from tokenprune.runs.load import load_row
from tokenprune.runs.reports import Sweep
from tokenprune.tasks.pictures import LabelMap, Picture, Predictions, most_frequent

METHODS = ("dense", "random", "cropr")


def picture(truth=None, side=8, patch=4):
    used = torch.ones(3, side // patch, side // patch, dtype=torch.bool)
    used[1:, 0, 0] = used[2, 1, 1] = False
    return Picture(0, np.zeros((side, side, 3), dtype=np.uint8), used, patch, truth=truth)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    folder = tmp_path_factory.mktemp("results")
    return folder, [made(folder, f"method={method}", "task.heads.score=0.0") for method in METHODS]


def report(name, results, folder, **options):
    root, rows = results
    wrote = build("report", {"name": name, **options})(Sweep("made_up", rows, folder, root))
    assert sorted(wrote) == sorted(p.name for p in folder.iterdir())
    return pd.read_csv(folder / f"{name}.csv")


def test_a_token_leaves_at_the_first_block_that_does_not_use_it():
    used = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1]]).bool().view(4, 2, 2)
    assert exits(used).tolist() == [[4, 2], [1, 0]]  # that it comes back (fusion, reactivation) is another matter


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 8, 4), (7, 10, 4), (3, 5, 1)])
def test_most_frequent_label_of_each_cell(height, width, patch):
    values = np.random.default_rng(0).integers(-1, 3, (height, width))
    padded = np.pad(values, ((0, -height % patch), (0, -width % patch)), mode="edge")
    for (row, column), label in np.ndenumerate(most_frequent(values, patch)):
        cell = padded[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch].ravel().tolist()
        assert cell.count(label) == max(cell.count(k) for k in set(cell))


def test_exits_of_each_class():
    values = np.full((8, 8), -1)
    values[:4, :4], values[4:, 4:], values[:4, 4:] = 1, 0, 0
    one = picture(LabelMap(values, ("sky", "car")))
    assert classes_of_cells(one) == ["car", "sky", "", "sky"]
    table = by_class([one], [exits(one.used)])
    assert table.to_dict("list") == {
        "class": ["car", "sky", "whole picture"], "tokens": [1, 2, 4], "share": [0.25, 0.5, 1.0], "block": [1.0, 2.5, 9 / 4],
    }  # fmt: skip
    assert words(table, "X") == "pruning_maps: X's tokens of car leave first (block 1.0 on average), those of sky last (2.5)"
    blank = by_class([picture()], [exits(one.used)])
    assert blank["class"].tolist() == ["whole picture"] and "leave at block 2.2 on average" in words(blank, "X")


def test_cells_of_objects_are_those_that_masks_half_cover():
    mask = np.zeros((1, 8, 8), dtype=bool)
    mask[0, :4, :2] = mask[0, 4:, 4:5] = True
    assert classes_of_cells(picture(Predictions(np.zeros((1, 4)), np.ones(1), mask))) == ["object"] + ["background"] * 3


def test_objects_are_drawn_from_left_to_right():
    boxes = np.array([[5.0, 0, 8, 2], [0, 0, 2, 2], [3, 0, 4, 4]])
    found = Predictions(boxes, np.array([0.9, 0.8, 0.2]), np.zeros((3, 8, 8), dtype=bool))
    assert [box[0] for box, _ in found.ordered(0.5)] == [0.0, 5.0] and len(found.ordered(0.0)) == 3


def test_files_and_numbers_of_pruning_maps(results, tmp_path, capsys):
    table = report("pruning_maps", results, tmp_path, compare=["dense", "random", "cropr"], pictures=[0, 2], score=0.0)
    seen = list(load_row(results[1][2], results[0]).pictures([0, 2]))
    assert table["block"].tolist() == torch.cat([exits(p.used).flatten() for p in seen]).tolist()
    classes = pd.read_csv(tmp_path / "pruning_maps_classes.csv").set_index("class")
    assert classes.loc["object", "tokens"] + classes.loc["background", "tokens"] == classes.loc["whole picture", "tokens"] == 128
    assert "pruning_maps: Cropr's tokens of" in capsys.readouterr().out


def test_ground_truth_is_that_of_the_data(results):
    seen = next(load_row(results[1][0], results[0]).pictures([1], predict=False))
    from tokenprune.data import build_detection

    known = build_detection(results[1][0]["config"]["data"], "val")[1].instances
    assert np.array_equal(seen.truth.masks, known.masks) and np.allclose(seen.truth.boxes, known.boxes)


def test_files_of_fused_features(results, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (pip install 'tokenprune[figures]')")
    options = {"pictures": [0, 1], "tokens": 100, "perplexity": 10.0}
    table = report("fused_features", results, tmp_path, **options)
    assert len(table) == 100 and table[["x_before", "y_after"]].notna().all(axis=None) and set(table["class"]) == {"object", "background"}


def test_features_are_what_enters_and_leaves_the_last_block(results):
    loaded = load_row(results[1][2], results[0])
    pruned, taken = loaded.model.pruned, {}
    block = pruned.backbone.blocks[-1]
    handle = block.norm1.register_forward_pre_hook(lambda _, x: taken.setdefault("in", x[0]))
    with captured(loaded.model) as found, torch.no_grad():
        list(loaded.pictures([0], predict=False))
        x = taken["in"]
        expected = block(x)[:, pruned.prefix_tokens :]
    handle.remove()
    torch.testing.assert_close(found.before[0], x[:, pruned.prefix_tokens :])
    torch.testing.assert_close(found.after[0], expected, atol=1e-5, rtol=1e-4)
    assert pruned.watch is None and not pruned.backbone.norm._forward_pre_hooks


def test_share_of_neighbours_of_the_same_class():
    features = np.array([[1.0, 0], [2.0, 0.01], [0, 1.0], [0.01, 3.0], [1.0, 0.9]])
    assert same_class(features, ["a", "a", "b", "b", "b"], 1) == 0.8  # the last one's nearest is of class a
    assert same_class(features, ["a", "a", "a", "a", "a"], 3) == 1.0


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("pruning_maps", {"compare": []}, "compare is empty; allowed: one or more"),
        ("fused_features", {"tokens": 20}, "tokens is 20, perplexity 30"),
        ("fused_features", {"perplexity": 0.0}, "allowed: a perplexity above 0"),
    ],
)
def test_wrong_options_are_refused(name, options, text):
    with pytest.raises(InvalidConfig, match=text):
        build("report", {"name": name, **options})


def test_rows_without_what_is_to_be_shown(results, tmp_path):
    with pytest.raises(TokenPruneError, match="no finished row of method 'evit'"):
        report("pruning_maps", results, tmp_path, compare=["evit"])
    with pytest.raises(TokenPruneError, match="forgets dropped tokens; show one with last_layer_fusion"):
        report("fused_features", results, tmp_path, method="dense")
