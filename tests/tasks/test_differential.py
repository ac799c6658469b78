"""Dense rows against the public tools that users compare them with: equal weights and images give the same accuracy."""

import json
import shutil
import zipfile

import pytest
import torch
from PIL import Image

from tests.helpers.image_sets import real
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.utils.checkpoints import load_dense, read_weights
from tokenprune.utils.paths import weights_path

pytestmark = pytest.mark.system

TINY_IMAGENET = real("vit_tiny_tin200")
SIDES = ((96, 96), (80, 112), (120, 72), (64, 64))


@pytest.fixture
def one_of_each(tmp_path):
    """The first validation image of each of Tiny-ImageNet's 200 classes, as a folder of class folders."""
    if not TINY_IMAGENET.is_dir():
        pytest.skip("vit_tiny_tin200 is neither in TOKENPRUNE_DATA nor in shared/data beside this checkout")
    with zipfile.ZipFile(TINY_IMAGENET / "val.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))
        first = {name.split("/")[1]: name for name in reversed(names)}
        archive.extractall(tmp_path, first.values())
    assert len(first) == 200
    return tmp_path


def test_a_classifier_is_judged_as_timm_judges_it(one_of_each):
    import timm
    from timm.data import ImageDataset, create_loader

    from tokenprune.backbones.weights import load_vit

    (weights,) = TINY_IMAGENET.glob("*.safetensors")
    view = {"interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.875}
    overrides = [f"task.view.{name}={value}".replace(" ", "") for name, value in view.items()]
    config = resolve(compose(["task=classification", "data=imagefolder", "backbone=vit_tiny", f"data.root={one_of_each}",
                              "data.max_val=null", *overrides]))  # fmt: skip
    task = get("task", "classification")()
    model = task.build_model(config)
    assert load_vit(model, weights) == []
    ours = task.evaluate(model, config)

    plain = timm.create_model("vit_tiny_patch16_224", num_classes=200).eval()
    plain.load_state_dict({name: value.float() for name, value in read_weights(weights).items()})
    data = ImageDataset(str(one_of_each / "val"))
    loader = create_loader(data, (3, 224, 224), 50, use_prefetcher=False, num_workers=0, **view)
    with torch.no_grad():
        best = torch.cat([(plain(images).topk(5).indices == labels[:, None]) for images, labels in loader])
    assert len(best) == 200
    assert (ours["top1"], ours["top5"]) == (100 * best[:, 0].double().mean().item(), 100 * best.any(1).double().mean().item())
    assert 55 < ours["top1"] < 85


@pytest.fixture
def on_disk(tmp_path):
    """Drawn pictures of several sizes as a COCO data set of PNG files; train and val are the same."""
    from tokenprune.data.shapes.shapes import ShapesDetection

    merged = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "annotations").mkdir()
    for folder in ("train2017", "val2017"):
        (tmp_path / folder).mkdir()
    data = ShapesDetection(16, 128, 5, "val")
    for place, image in enumerate(data.coco_json()["images"]):
        height, width = SIDES[place % len(SIDES)]  # the upper left part of a picture
        picture = Image.fromarray(data[place].image[:height, :width])
        for folder in ("train2017", "val2017"):
            picture.save(tmp_path / folder / image["file_name"])
        merged["images"].append({**image, "height": height, "width": width})
        for object_ in (a for a in data.coco_json()["annotations"] if a["image_id"] == image["id"]):
            left, top, wide, high = object_["bbox"]
            if left + wide > width or top + high > height:
                continue
            box = [[left, top, left + wide, top, left + wide, top + high, left, top + high]]
            merged["annotations"].append({**object_, "segmentation": box, "area": wide * high})
    merged["categories"] = data.coco_json()["categories"]
    for split in ("train2017", "val2017"):
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(merged))
    return tmp_path


def test_a_detector_is_judged_as_detectron2_judges_it(on_disk, tmp_path):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, build_detection_test_loader, transforms
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset

    config = resolve(compose(["task=detection", "data=coco", f"data.root={on_disk}", "data.short_side=128", "data.long_side=160",
                              "data.max_val=null", "task.evaluate.bootstrap=2"]))  # fmt: skip
    task = get("task", "detection")()
    model = task.build_model(config)
    load_dense(model, weights_path("demo"))
    assert config["task"]["evaluate"]["batch_size"] > 1, "pictures of several sizes do not pad one another"
    ours = task.evaluate(model, config)

    name = "tokenprune_differential"
    register_coco_instances(name, {}, str(on_disk / "annotations" / "instances_val2017.json"), str(on_disk / "val2017"))
    try:
        mapper = DatasetMapper(is_train=False, augmentations=[transforms.ResizeShortestEdge(128, 160)], image_format="RGB")
        loader = build_detection_test_loader(DatasetCatalog.get(name), mapper=mapper, num_workers=0)
        limit = config["task"]["evaluate"]["max_detections"]
        judge = COCOEvaluator(name, ("bbox", "segm"), False, str(tmp_path / "judged"), max_dets_per_image=limit, use_fast_impl=False)
        theirs = inference_on_dataset(model.eval(), loader, judge)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for kind, suffix in (("bbox", "box"), ("segm", "mask")):
        for metric, field in (("AP", "ap"), ("AP50", "ap50"), ("AP75", "ap75")):
            assert ours[f"{field}_{suffix}"] == pytest.approx(theirs[kind][metric], abs=1e-6), (kind, metric)
    assert ours["ap_box"] > 5


@pytest.fixture
def streets(tmp_path):
    """Six validation pictures of CamVid, which are train as well."""
    camvid = real("camvid")
    if not camvid.is_dir():
        pytest.skip("camvid is neither in TOKENPRUNE_DATA nor in shared/data beside this checkout")
    names = sorted(path.stem for path in (camvid / "images/val").iterdir())[::17]
    for split in ("train", "val"):
        for kind, ending in (("images", "jpg"), ("labels", "png")):
            (tmp_path / kind / split).mkdir(parents=True)
            for name in names:
                shutil.copy(camvid / kind / "val" / f"{name}.{ending}", tmp_path / kind / split)
    shutil.copy(camvid / "classes.json", tmp_path)
    return tmp_path


def test_a_segmenter_is_judged_as_torchvision_and_scikit_learn_judge_it(streets):
    import numpy as np
    from sklearn.metrics import accuracy_score, jaccard_score
    from torch.nn import functional as F
    from torchvision.transforms.v2 import functional as TF

    config = resolve(compose(["task=segmentation", "data=camvid", f"data.root={streets}", "data.max_val=null", "scale=smoke"]))
    task = get("task", "segmentation")()
    torch.manual_seed(0)
    model = task.build_model(config)
    plain = model.pruned.backbone.eval()
    torch.nn.init.normal_(plain.head.weight)  # so that several classes are predicted
    ours = task.evaluate(model, config)

    side, patch = config["backbone"]["img_size"], config["backbone"]["patch_size"]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
    truths, found = [], []
    for path in sorted((streets / "images/val").iterdir()):
        image, truth = Image.open(path).convert("RGB"), np.array(Image.open(streets / "labels/val" / f"{path.stem}.png"))
        small = [round(n * side / max(image.size)) for n in image.size[::-1]]
        pixels = TF.normalize(TF.resize(TF.pil_to_tensor(image), small, antialias=True) / 255, list(mean), list(std))
        with torch.no_grad():
            tokens = plain.forward_features(F.pad(pixels, (0, side - small[1], 0, side - small[0])).unsqueeze(0))
            grid = plain.head(tokens[:, plain.num_prefix_tokens :]).transpose(1, 2).unflatten(2, (side // patch, side // patch))
            shares = F.interpolate(grid, size=(side, side), mode="bilinear").softmax(1)[:, :, : small[0], : small[1]]
            shares = F.interpolate(shares, size=truth.shape, mode="bilinear")
        counted = truth != 11  # void
        truths.append(truth[counted])
        found.append(shares[0].argmax(0).numpy()[counted])
    truths, found = np.concatenate(truths), np.concatenate(found)
    present = sorted({*truths.tolist(), *found.tolist()})
    assert len(set(found.tolist())) > 3
    assert ours["miou"] == pytest.approx(100 * jaccard_score(truths, found, labels=present, average="macro"), abs=1e-9)
    assert ours["pixel_accuracy"] == pytest.approx(100 * accuracy_score(truths, found), abs=1e-9)
