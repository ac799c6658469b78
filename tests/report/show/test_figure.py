"""The figure, the moving picture, and `tokenprune.show`."""

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image

import tokenprune
from tests.helpers.shown import DEPTH, classified, detected, entry, segmented
from tokenprune.errors import DatasetError, InvalidConfig
from tokenprune.report.show.figure import draw, faded, save_gif, save_png, spread
from tokenprune.report.show.images import ENDINGS, files_of
from tokenprune.report.show.shown import frames


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 7}
    return timm.create_model("vit_tiny_patch16_224", **size).eval()


@pytest.fixture(scope="module")
def model(vit):
    return tokenprune.prune(vit, selector="evit", schedule={"name": "stages", "blocks": [1, 2], "keep_rate": 0.5}).eval()


def photo(height=40, width=50) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("depth, blocks", [(1, [0]), (4, [0, 1, 2, 3]), (12, [0, 2, 4, 7, 9, 11]), (24, [0, 5, 9, 14, 18, 23])])
def test_a_figure_shows_up_to_six_blocks(depth, blocks):
    assert spread(depth) == blocks


def test_dropped_patches_are_faded_and_the_others_are_the_pictures():
    picture = entry("drop").picture
    frame = list(frames(picture))[1]
    found = faded(picture.pixels, frame, picture.patch)
    gone = frame.gone.numpy().repeat(8, 0).repeat(8, 1)[:22, :30]
    assert np.array_equal(found[~gone], picture.pixels[~gone])
    assert np.allclose(found[gone], 0.16 * picture.pixels[gone].astype(float) + 0.84 * 255, atol=0.51)


@pytest.mark.parametrize("shown", [classified, detected, segmented])
def test_a_figure_has_a_line_a_model_and_a_column_a_block_and_one_for_the_answer(shown):
    figure = draw(shown(), [0, 4])
    assert isinstance(figure, Figure) and len(figure.axes) == 3 * len(shown().entries)
    assert figure.axes[0].get_ylabel() == shown().entries[0].label and figure.axes[1].get_title().startswith("block 4\n")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_merged_groups_are_outlined():
    figure = draw(classified(), [0, 4])
    merged = figure.axes[2 * 3 + 1]
    assert [len(axis.collections) for axis in figure.axes[:2]] == [0, 0] and len(merged.collections) == 2


def test_a_notebook_gets_the_page_in_a_frame_of_its_own():
    page = draw(classified())._repr_html_()
    assert page.startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;') and page.count('"') == 2 * page.count('="')


def test_a_moving_picture_has_a_frame_a_block(tmp_path):
    save_gif(classified(), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == DEPTH and image.info["loop"] == 0
        sizes = set()
        for number in range(DEPTH):
            image.seek(number)
            sizes.add(image.size)
        assert len(sizes) == 1
    save_png(classified(), tmp_path / "a.png", [1])
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"


def test_show_compares_with_the_dense_model(vit, model):
    figure = tokenprune.show(model, photo())
    dense, pruned = figure.shown.entries
    assert (dense.label, pruned.label) == ("Dense", "evit") and dense.dense and not pruned.dense
    assert dense.picture.tokens == (16,) * 4 and pruned.picture.tokens[0] == 16 > pruned.picture.tokens[-1]
    with torch.no_grad():
        x = torch.from_numpy(pruned.picture.pixels).permute(2, 0, 1)[None].float() / 255
        expected = vit((x - 0.5) / 0.5).softmax(1)[0]
    assert dense.picture.predictions.shares == pytest.approx(tuple(expected.topk(5).values.tolist()), abs=1e-6)
    assert dense.picture.predictions.names == tuple(f"class {k}" for k in expected.topk(5).indices.tolist())
    cost = tokenprune.cost(model)
    assert pruned.picture.gmac == pytest.approx((cost.gmac_linear, cost.gmac)) and dense.picture.gmac[1] == pytest.approx(cost.dense)


def test_show_takes_paths_pictures_arrays_and_tensors(model, tmp_path):
    image = photo(32, 32)
    Image.fromarray(image).save(tmp_path / "photo.png")
    shown = [tokenprune.show(model, one, dense=False) for one in (str(tmp_path / "photo.png"), Image.fromarray(image), image)]
    assert shown[0].shown.name == "photo.png" and shown[1].shown.name == "the picture"
    used = [figure.shown.entries[0].picture.used for figure in shown]
    assert all(torch.equal(used[0], one) for one in used)
    x = (torch.from_numpy(shown[0].shown.entries[0].picture.pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    for tensor in (x, x[None]):
        entries = tokenprune.show(model, tensor, dense=False).shown.entries
        assert torch.equal(entries[0].picture.used, used[0])
        assert np.array_equal(entries[0].picture.pixels, shown[0].shown.entries[0].picture.pixels)


def test_show_takes_several_models_by_name_and_chosen_blocks(vit, model):
    tome = tokenprune.prune(vit, selector="tome", schedule={"name": "per_block", "remove": 2})
    figure = tokenprune.show({"a": model, "b": tome}, photo(), blocks=[3], names=tuple("abcdefg"), title="mine")
    assert [one.label for one in figure.shown.entries] == ["Dense", "a", "b"] and len(figure.axes) == 6
    assert set(figure.shown.entries[0].picture.predictions.names) <= set("abcdefg") and figure.shown.name == "mine"
    assert [one.label for one in tokenprune.show(model, photo(), dense=False).shown.entries] == ["evit"]
    assert [one.label for one in tokenprune.show(tokenprune.prune(vit), photo()).shown.entries] == ["Dense"]


def test_show_leaves_the_model_in_its_mode(model):
    model.train()
    tokenprune.show(model, photo(), dense=False)
    assert model.training and all(module.training for module in model.modules())
    model.eval()


@pytest.mark.parametrize(
    "given, words",
    [
        (np.zeros((4, 4, 3)), r"an array \(4, 4, 3\) of float64"),
        (np.zeros((4, 4), np.uint8), r"an array \(4, 4\) of uint8"),
        (7, "a int"),
        (torch.zeros(2, 3, 32, 32), r"a tensor \(2, 3, 32, 32\)"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), "of torch.uint8"),
    ],
)
def test_show_refuses_what_is_no_picture(model, given, words):
    with pytest.raises(InvalidConfig, match=f"{words}.*allowed: a path"):
        tokenprune.show(model, given)


def test_show_refuses_other_models_and_blocks(vit, model):
    with pytest.raises(InvalidConfig, match="got VisionTransformer; allowed: a model of tokenprune.prune"):
        tokenprune.show(vit, photo())
    with pytest.raises(InvalidConfig, match="no model"):
        tokenprune.show({}, photo())
    with pytest.raises(InvalidConfig, match="blocks has 4; allowed: 0 to 3"):
        tokenprune.show(model, photo(), blocks=[1, 4])


def test_show_says_which_file_is_no_picture(model, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(DatasetError, match="a.jpg.*give a readable picture"):
        tokenprune.show(model, tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match="there is no such file"):
        tokenprune.show(model, tmp_path / "b.jpg")


def test_pictures_of_a_folder_come_by_name(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files_of([tmp_path, tmp_path / "x.jpg"])] == ["a.jpg", "b.PNG", "x.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=f"holds no picture directly; allowed endings: {ENDINGS[0]}"):
        files_of([tmp_path / "empty"])
