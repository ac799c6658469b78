"""The command `tokenprune show`: pages and pictures on disk, and errors that say what to give."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tests.helpers.rows import made
from tokenprune.cli.show import main
from tokenprune.runs.results import row_folder
from tokenprune.utils.checkpoints import save_weights

pytestmark = pytest.mark.system

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_weights(path, timm.create_model(NAME, img_size=64, num_classes=6))
    return path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three photographs in a folder; the working folder is empty."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.jpg")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_a_page_a_still_and_a_moving_picture(photos, weights, tmp_path, capsys):
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["ant", "bee", "cat", "dog", "elk", "fox"]))
    images = [str(photos / "photo0.jpg"), str(photos / "photo1.jpg")]
    model = ["--model", NAME, "--weights", str(weights), "--names", str(names), "--size", "64"]
    pictures = ["--png", "still.png", "--gif", "moving.gif", "--out", "sub/page.html"]
    assert main([*images, *model, "--methods", "evit", "tome:remove=1", "svit", *pictures]) == 0
    said = capsys.readouterr()
    wrote = ["sub/page.html", "still_0.png", "still_1.png", "moving_0.gif", "moving_1.gif"]
    assert said.out.splitlines() == [f"wrote {name}" for name in wrote]
    assert said.err.splitlines() == ["warning: SViT: " + said.err.split("SViT: ")[1].strip()] and "random" in said.err
    page = (tmp_path / "work" / "sub" / "page.html").read_text()
    assert all(words in page for words in ("photo0.jpg", "photo1.jpg", "ToMe (remove=1)", "Dense", "weights vit.safetensors"))
    assert any(name in page for name in ("ant", "bee", "elk")) and said.err.split("SViT: ")[1].strip()[:30] in page
    with Image.open("moving_1.gif") as image:
        assert image.n_frames == 12


def test_a_folder_gives_its_first_pictures(photos, weights, capsys):
    assert main([str(photos), "--model", NAME, "--weights", str(weights), "--size", "64", "--max", "2"]) == 0
    assert "showing 2 of 3 pictures; --max N shows more" in capsys.readouterr().out
    with open("show.html") as file:
        page = file.read()
    assert "photo1.jpg" in page and "photo2.jpg" not in page and "EViT" in page and "ToMe" in page  # the methods unless others are named


def test_rows_by_folder_and_by_key_and_side_by_side(photos, tmp_path):
    rows = [made(tmp_path / "work/results", "task=classification", f"method={method}") for method in ("evit", "topk")]
    folders = [str(row_folder("results", row["key"])) for row in rows]
    image = str(photos / "photo0.jpg")
    for given, labels in (([folders[0]], 2), ([rows[0]["key"]], 2), ([folders[0] + "/model.safetensors"], 2), (folders, 2)):
        assert main([image, "--model", *given]) == 0
        with open("show.html") as file:
            assert file.read().count('<article class="card">') == labels


def test_the_model_of_the_package_shows_its_own_pictures(photos):
    assert main(["--model", "demo", "--methods", "evit", "--max", "1"]) == 0
    with open("show.html") as file:
        page = file.read()
    assert "embedded picture 0" in page and "embedded picture 1" not in page and "best guesses" in page


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["IMAGE", "--model", NAME], f"--model {NAME} has no weights, and nothing is downloaded; give --weights FILE"),
        (["--model", NAME, "--weights", "FILE"], "no picture is named; give files or folders"),
        (["nowhere.jpg", "--model", "demo"], "picture nowhere.jpg: there is no such file"),
        (["IMAGE", "--model", "results/rows/none"], "there is no row at results/rows/none"),
        (["IMAGE", "--model", "demo", "--methods", "evitt"], "there is no method 'evitt'. Did you mean 'evit'?"),
        (["IMAGE", "--model", "demo", NAME], "several models are rows, and 'demo' is no row"),
        (["IMAGE", "--model", "no_such_model", "--weights", "FILE"], "timm has no model 'no_such_model'"),
        (["IMAGE", "--model", "demo", "--methods", "evit:treatment=reactivate"], "reactivate"),
        (["IMAGE", "--model", "demo", "--names", "x.json", "--size", "64"], "--names, --size beside --model demo, which has its own"),
        (["IMAGE", "--model", NAME, "--weights", "FILE", "--names", "missing.json"], "missing.json: no such file"),
        (["IMAGE", "--model", "demo", "--out", "WORK"], "cannot write"),
    ],
)
def test_errors_say_what_to_give(photos, weights, capsys, arguments, words):
    places = {"IMAGE": str(photos / "photo0.jpg"), "FILE": str(weights), "WORK": str(photos)}
    assert main([places.get(word, word) for word in arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_counts_are_whole_numbers(value, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["a.jpg", "--model", "demo", "--max", value])
    assert ended.value.code == 2 and f"'{value}' is no whole number from 1 on" in capsys.readouterr().err
