"""Average precision, its standard error, speed, and a detector that learns a handful of pictures by heart."""

import time

import numpy as np
import pytest
import torch

from tokenprune.data.shapes.shapes import ShapesDetection
from tokenprune.errors import Diverged
from tokenprune.registry import get
from tokenprune.tasks.detection import coco_ap
from tokenprune.tasks.detection.settings import EvaluateConfig
from tokenprune.training.loop import fit
from tokenprune.training.settings import TrainingConfig

LIMITS = (14.0, 27.0)


def truth(size=12, side=96):
    return ShapesDetection(size, side, 0, "val").coco_json()


def as_predictions(annotations, score=lambda a: 1.0):
    return [{k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": score(a)} for a in annotations]


def noisy(json, seed=0, keep=0.8, classes=8):
    """Shifted, missed, duplicated and mislabelled copies of the ground truth, with uninformative scores."""
    rng, results = np.random.default_rng(seed), []
    for a in as_predictions(json["annotations"]):
        for _ in range(rng.integers(0, 3)):
            box = (np.array(a["bbox"]) + rng.normal(0, 3, 4)).clip(1).tolist()
            label = a["category_id"] if rng.random() < keep else int(rng.integers(1, classes + 1))
            results.append({**a, "bbox": box, "category_id": label, "score": round(float(rng.random()), 1)})
    return results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ground_truth_as_prediction_is_100(kind):
    json = truth()
    values = coco_ap.score(json, as_predictions(json["annotations"]), kind, 100, LIMITS, bootstrap=5).values
    assert values.pop("ap_se") == 0
    assert set(values) == {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"} and set(values.values()) == {100.0}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_no_detections_give_zero(kind, capsys):
    values = coco_ap.score(truth(3), [], kind, bootstrap=4).values
    assert values["ap"] == values["ap50"] == values["ap_se"] == 0 and capsys.readouterr().out == ""


def test_areas_without_objects_are_left_out():
    json = truth(3)
    assert "ap_large" not in coco_ap.score(json, as_predictions(json["annotations"]), "bbox", limits=(500.0, 600.0)).values


def test_ground_truth_is_not_changed():
    import copy

    json = truth(3)
    before = copy.deepcopy(json)
    coco_ap.score(json, noisy(json), "segm")
    assert json == before


@pytest.mark.parametrize("seed", range(4))
def test_the_identity_resample_is_cocoevals_ap(seed):
    """Against pycocotools' own summary, which only reads maxDets=100."""
    import contextlib
    import io

    json = truth(20)
    evaluation = coco_ap.match(json, noisy(json, seed), "bbox", 100, LIMITS)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    classes, images = coco_ap._flatten(evaluation), len(json["images"])
    ours = coco_ap.resampled_ap(classes, np.ones(images, int), evaluation.params.recThrs)
    assert 0.05 < ours < 0.95 and abs(ours - evaluation.stats[0]) < 1e-9
    assert coco_ap.score(json, noisy(json, seed), "bbox", 100, LIMITS).values["ap"] == pytest.approx(100 * ours, abs=1e-5)


def test_a_resample_without_an_image_is_the_evaluation_without_it():
    """Weights 0 and 1 only, so that COCOeval on the remaining images is an exact oracle."""
    json = truth(20)
    results, gone = noisy(json), {1, 5, 6, 17}
    evaluation = coco_ap.match(json, results, "bbox", 100, LIMITS)
    weights = np.array([int(i not in gone) for i in range(20)])
    ours = coco_ap.resampled_ap(coco_ap._flatten(evaluation), weights, evaluation.params.recThrs)
    fewer = {
        **json,
        "images": [i for i in json["images"] if i["id"] not in gone],
        "annotations": [a for a in json["annotations"] if a["image_id"] not in gone],
    }
    oracle = coco_ap.score(fewer, [r for r in results if r["image_id"] not in gone], "bbox", 100, LIMITS).values["ap"]
    assert 100 * ours == pytest.approx(oracle, abs=1e-5)


def test_the_standard_error_shrinks_with_the_root_of_the_images():
    few, many = truth(10), truth(160)
    errors = [coco_ap.score(j, noisy(j), "bbox", 100, LIMITS, bootstrap=50).values["ap_se"] for j in (few, many)]
    assert 1.8 < errors[0] / errors[1] < 9  # 4 in the limit


def test_fifty_resamples_of_300_images_take_seconds():
    json = truth(300, 64)
    evaluation = coco_ap.match(json, noisy(json), "bbox", 100, LIMITS)
    begin = time.process_time()
    assert 0 < coco_ap.standard_error(coco_ap.resampled_aps(evaluation, coco_ap.draws(300, 50))) < 0.1
    assert time.process_time() - begin < 5


def test_a_difference_of_two_models_is_that_of_cocoeval_on_each_resample():
    """Resampled pictures are copied, with their objects and detections, and judged by pycocotools."""
    from tokenprune.measure.resamples import compared
    from tokenprune.tasks.detection.evaluate import judge

    data, cfg = ShapesDetection(8, 96, 0, "val"), EvaluateConfig(limits=LIMITS, bootstrap=6)
    json = data.coco_json()
    models = [[{**r, "score": (i + 1) / 1000} for i, r in enumerate(noisy(json, seed))] for seed in (0, 1)]
    one, other = (judge(data, results, cfg) for results in models)
    ids = sorted(image["id"] for image in json["images"])

    def oracle(results, counts):
        copies = [(i, n) for i, count in zip(ids, counts, strict=True) for n in range(count)]
        at = {copy: number for number, copy in enumerate(copies)}
        truth = {
            **json,
            "images": [{**next(m for m in json["images"] if m["id"] == i), "id": at[i, n]} for i, n in copies],
            "annotations": [
                {**a, "image_id": at[i, n], "id": 1000 * at[i, n] + a["id"] + 1}
                for i, n in copies
                for a in json["annotations"]
                if a["image_id"] == i
            ],
        }
        found = [{**r, "image_id": at[i, n]} for i, n in copies for r in results if r["image_id"] == i]
        return coco_ap.score(truth, found, "bbox", 100, LIMITS).values["ap"]

    direct = [oracle(models[0], counts) - oracle(models[1], counts) for counts in coco_ap.draws(8, 6)]
    gaps = one.resampled.values["ap_box"] - other.resampled.values["ap_box"]
    assert gaps.tolist() == pytest.approx(direct, abs=1e-4) and one.resampled.draws == other.resampled.draws
    pair = compared(one.metrics["ap_box"] - other.metrics["ap_box"], one.resampled.values["ap_box"], other.resampled.values["ap_box"])
    assert pair.error == pytest.approx(np.std(direct, ddof=1), abs=1e-4)


def test_other_pictures_or_resamples_are_no_pairs():
    from tokenprune.tasks.detection.evaluate import judge

    data, more, others = (ShapesDetection(size, 96, seed, "val") for size, seed in ((6, 0), (7, 0), (6, 1)))
    plain = [judge(d, [], EvaluateConfig(bootstrap=4)).resampled.draws for d in (data, more, others)]
    assert len({*plain, judge(data, [], EvaluateConfig(bootstrap=5)).resampled.draws}) == 4
    assert plain[0] == judge(data, noisy(data.coco_json()), EvaluateConfig(bootstrap=4)).resampled.draws


def test_judging_maps_labels_to_category_ids(config):
    from detectron2.structures import Boxes, Instances

    from tokenprune.tasks.detection.evaluate import coco_records, judge

    data, results = ShapesDetection(4, 64, 0, "val"), []
    for sample in (data[i] for i in range(4)):
        found = Instances(sample.image.shape[:2])
        found.pred_boxes = Boxes(torch.from_numpy(sample.instances.boxes))
        found.pred_masks = torch.from_numpy(sample.instances.masks)
        found.pred_classes = torch.from_numpy(sample.instances.labels)
        found.scores = torch.ones(len(sample.instances))
        results += coco_records(found, sample.image_id, data.category_ids)
    metrics, resampled = judge(data, results, EvaluateConfig(limits=LIMITS, bootstrap=3))
    assert metrics["ap_box"] == metrics["ap_mask"] == metrics["ap50_box"] == 100.0 and metrics["ap_box_se"] == 0
    assert resampled.values["ap_mask"].tolist() == [100.0] * 3 and resampled.pictures == 4
    assert judge(data, results, EvaluateConfig(limits=LIMITS, bootstrap=0)).resampled is None


@pytest.mark.parametrize("selector", [None, "evit"])
def test_untrained_model_to_metrics_and_cost(config, selector):
    plan = {"selector": {"name": selector}, "schedule": {"name": "stages", "blocks": [1, 2], "keep_rate": 0.5}} if selector else {}
    cfg = config(**plan, **({"treatment": {"name": "preserve"}} if selector else {}))
    task = get("task", "detection")()
    model, threads = task.build_model(cfg).train(), torch.get_num_threads()
    metrics = task.evaluate(model, cfg)
    assert {"ap_box", "ap_box_se", "ap_mask", "ap_mask_se", "ap50_box", "ap75_mask"} <= set(metrics)
    assert all(0 <= v <= 100 for v in metrics.values())
    assert {name: len(values) for name, values in task.resampled.values.items()} == {"ap_box": 5, "ap_mask": 5}
    cost = task.cost(model, cfg)
    assert 0 < cost["seconds_encoder"] < cost["seconds_total"] and "CPU" in cost["seconds_note"]
    assert cost["speedup_encoder"] > 0
    model.pruned.execution = "masked"
    assert task.cost(model, cfg)["speedup_encoder"] is None
    assert len(cost["kept_per_block"]) == 4 and cost["gmac_total"] > 0
    assert (cost["kept_share"] < 1) == bool(selector)
    assert model.training and torch.get_num_threads() == threads


@pytest.mark.system
def test_two_pictures_are_learned_by_heart(config, tmp_path):
    """Overfitting shows that boxes, masks, labels and evaluation speak of the same things."""
    cfg = config(
        backbone={"img_size": 96, "embed_dim": 96, "pos_init": "sincos"},
        data={"side": 96, "train_size": 2, "val_size": 2},
        task={
            "heads": {"box_fc": [128], "roi_samples": 16, "sampling": 1}, "pyramid": {},
            "augment": {"flip": False, "vertical_flip": False, "transpose": False, "channels": False},
        },
    )  # fmt: skip
    task = get("task", "detection")()
    torch.manual_seed(0)
    model = task.build_model(cfg)
    recipe = TrainingConfig(iterations=200, batch_size=2, lr=1.5e-3, betas=(0.9, 0.98), warmup=20, schedule="linear_tail")
    fit(model, lambda start: task.train_batches(cfg, start), task.losses, recipe, tmp_path)
    from tokenprune.tasks.detection.evaluate import evaluate
    from tokenprune.tasks.detection.loader import Resize

    metrics, _ = evaluate(model, ShapesDetection(2, 96, 0, "train"), EvaluateConfig(bootstrap=0), Resize())
    assert metrics["ap_mask"] >= 50 and metrics["ap_box"] >= 70


def test_a_killed_detector_training_ends_with_the_same_bits(config, svit, tmp_path):
    """RoI sampling, Gumbel noise and augmentation all draw numbers; all must be where they were."""
    cfg = config(**svit)
    task = get("task", "detection")()
    recipe = TrainingConfig(iterations=5, batch_size=2, lr=1e-3, checkpoint_every=2)

    def run(folder, stop=None):
        def hook(model, i):
            if i == stop:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        model = task.build_model(cfg)
        fit(model, lambda start: task.train_batches(cfg, start), task.losses, recipe, folder, before_step=hook)
        return model.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", stop=3)
    resumed = run(tmp_path / "killed")
    assert all(torch.equal(v, resumed[k]) for k, v in whole.items())


@pytest.mark.parametrize("part", ["encoder", "box head", "mask head"])
def test_outputs_that_are_not_finite_are_not_judged(config, part):
    """Detectron2 drops such boxes, so that the AP would be 0."""
    cfg, task = config(), get("task", "detection")()
    model = task.build_model(cfg).train()
    with torch.no_grad():
        layer, name = {
            "encoder": (model.pruned.backbone.blocks[1].mlp.fc2, r"blocks\.1\.mlp\.fc2"),
            "box head": (model.roi_heads.box_predictor.bbox_pred, r"box_predictor\.bbox_pred"),
            "mask head": (model.roi_heads.mask_head.predictor, r"mask_head\.predictor"),
        }[part]
        layer.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=name):
        task.evaluate(model, cfg)
    assert model.training
