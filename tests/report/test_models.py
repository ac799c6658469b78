"""A row's model comes back as it was, and its pictures are what it saw."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.fakes import FakeTask, row
from tests.helpers.rows import made
from tokenprune.engine.model import pruned_of
from tokenprune.errors import CheckpointMismatch, TokenPruneError
from tokenprune.measure.usage import record
from tokenprune.runs.load import Loaded, load_row
from tokenprune.runs.results import row_folder
from tokenprune.runs.run_key import plugins_of

pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")


def test_a_row_comes_back_in_eval_mode_with_its_own_weights(tmp_path):
    result = made(tmp_path, "method=svit")
    result["config"]["backbone"]["pretrained"] = "/gone/by/now.pth"  # the row's own weights are what counts
    task, model, config = load_row(result, tmp_path)
    torch.manual_seed(5)
    fresh = task.build_model(config).state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in model.state_dict().items()) and not model.training
    assert task.name == "detection" and config["results_dir"] == str(tmp_path)


def test_a_row_without_result_or_weights_is_refused_with_the_fix(tmp_path):
    with pytest.raises(TokenPruneError, match="ended as diverged: loss is nan; it has no model"):
        load_row(row(status="diverged", reason="loss is nan"), tmp_path)
    result = made(tmp_path, "method=svit")
    (row_folder(tmp_path, result["key"]) / "model.safetensors").unlink()
    with pytest.raises(TokenPruneError, match=r"weights .* are gone; remove the folder .* and run the same command again"):
        load_row(result, tmp_path)
    other = made(tmp_path, "method=svit", "backbone.embed_dim=24")
    with pytest.raises(CheckpointMismatch):
        load_row({**other, "config": made(tmp_path, "method=svit")["config"]}, tmp_path)


def test_pictures_show_what_the_model_used_and_found(tmp_path):
    loaded = load_row(made(tmp_path, "method=svit", "task.heads.score=0.0"), tmp_path)
    pictures = list(loaded.pictures([1, 3, 99]))
    assert [p.number for p in pictures] == [1, 3] and len(list(loaded.pictures(predict=False))) == 6
    for picture, alone in zip(pictures, loaded.pictures([1, 3], predict=False), strict=True):
        sample = loaded.task._data(loaded.config, "val")[picture.number].image
        assert np.array_equal(picture.pixels, sample) and picture.grid == (8, 8) and picture.patch == 8
        with torch.no_grad(), record(loaded.model) as seen:
            loaded.model.backbone(loaded.model.preprocess_image([{"image": torch.from_numpy(sample).permute(2, 0, 1)}]).tensor)
        assert torch.equal(picture.used.flatten(1), seen.images[0].blocks) and torch.equal(alone.used, picture.used)
        found = picture.predictions
        assert alone.predictions is None and len(found.boxes) == len(found.scores) == len(found.masks) > 0
        assert found.masks.shape[1:] == (64, 64) and found.boxes.max() <= 64


def test_pictures_of_several_sizes_have_their_own_grid_without_padding(tmp_path):
    root = coco_root(tmp_path / "coco", [(100, 60), (60, 100), (90, 90)])
    size = ["data.short_side=60", "data.long_side=100", "data.max_val=null"]
    loaded = load_row(made(tmp_path, "method=svit", "data=coco", f"data.root={root}", *size), tmp_path)
    pictures = list(loaded.pictures())
    assert [p.pixels.shape[:2] for p in pictures] == [(60, 100), (100, 60), (60, 60)]
    assert [p.grid for p in pictures] == [(8, 13), (13, 8), (8, 8)]
    assert all(tuple(p.foreground().shape) == p.grid for p in pictures)


def test_classification_has_pictures_without_predictions(tmp_path):
    loaded = load_row(made(tmp_path, "method=svit", "task=classification"), tmp_path)
    (picture,) = loaded.pictures([2])
    assert picture.predictions is None and picture.grid == (8, 8) and picture.used.shape[0] == pruned_of(loaded.model).depth


def test_a_task_without_pictures_is_named():
    with pytest.raises(TokenPruneError, match="task 'fake' shows no pictures; give it a method"):
        Loaded(FakeTask(), None, {}).pictures()


def coco_root(root, sizes):
    """A COCO root with one object a picture; sizes are (width, height)."""
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    images, annotations = [], []
    for key, (width, height) in enumerate(sizes, start=1):
        Image.new("RGB", (width, height), (40 * key, 90, 20)).save(root / "val2017" / f"{key}.png")
        images.append({"id": key, "file_name": f"{key}.png", "width": width, "height": height})
        shape = [[5.0, 5.0, 40.0, 5.0, 40.0, 30.0, 5.0, 30.0]]
        record_ = {"id": key, "image_id": key, "category_id": 1, "bbox": [5, 5, 35, 25], "area": 875, "iscrowd": 0}
        annotations.append({**record_, "segmentation": shape})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    return root


def test_weights_of_other_code_are_shown_with_a_warning(tmp_path, capsys):
    result = made(tmp_path, "method=svit", "task=classification")
    now = plugins_of(result["config"])
    load_row({**result, "plugins": now}, tmp_path)
    assert "changed" not in capsys.readouterr().err
    load_row({**result, "plugins": {**now, "selector.svit": {**now["selector.svit"], "code": "0" * 16}}}, tmp_path)
    assert f"the code of selector svit changed since row {result['key']} was made" in capsys.readouterr().err
