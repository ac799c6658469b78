"""backbone=hf: folders of transformers as models of a run, their preprocessing, and zero-shot evaluation by class names."""

import json

import pytest
import torch

from tests.helpers.hf_models import SIDE, small, transformers
from tests.helpers.image_sets import both_splits
from tokenprune.backbones.hf import build_hf, load_folder
from tokenprune.engine.model import pruned_of
from tokenprune.errors import CheckpointMismatch, InvalidConfig
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.row import run_row
from tokenprune.runs.run_key import run_key
from tokenprune.runs.validation import validate
from tokenprune.tasks.preprocessing import about_view
from tokenprune.tasks.zero_shot import names_of
from tokenprune.training.learning_rates import layer_scales
from tokenprune.utils.hf_folder import folder_value, folder_view

SQUARE = {"height": SIDE, "width": SIDE}
WORDS = ("pad", "bos", "eos", "unk", "a", "photo", "of", ".", "alpha", "beta", "ten", "two", "Alpha", "n10", "n2")


def saved(folder, label, **options):
    """Save a small model with a preprocessor and, for two towers, a tokenizer of words; return the folder."""
    model = small(label, **options)
    model.save_pretrained(folder)
    asked = {"CLIPModel": ("CLIPImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
             "Dinov2ForImageClassification": ("BitImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": SQUARE})}  # fmt: skip
    kind, sizes = asked.get(label, ("ViTImageProcessor", {"size": SQUARE}))
    getattr(transformers, kind)(**sizes).save_pretrained(folder)
    if label in ("CLIPModel", "SiglipModel"):
        tokenizer().save_pretrained(folder)
    return folder


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="unk"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="bos $A eos", special_tokens=[("bos", 1), ("eos", 2)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="pad", bos_token="bos", eos_token="eos", unk_token="unk")


def run_of(tmp_path, label, *more, task="classification", **options):
    """Return the run of a saved model on twelve images of four classes."""
    folder = tmp_path / label
    if not folder.is_dir():
        saved(folder, label, **options)
    if not (tmp_path / "set").is_dir():
        both_splits(tmp_path / "set")
    chosen = [f"task={task}", "backbone=hf", f"backbone.model={folder}", "data=imagefolder", f"data.root={tmp_path / 'set'}", "scale=smoke"]
    return resolve(compose([*chosen, "training.iterations=0", f"results_dir={tmp_path / 'results'}", *more]))


def test_a_folder_is_judged_with_its_own_weights_and_view(tmp_path):
    run = run_of(tmp_path, "ViTForImageClassification", "method=tome", "measure=[accuracy,cost]", num_labels=4)
    validate(run)
    assert run.backbone["img_size"] == SIDE == run.data["side"] and run.backbone["patch_size"] == 4
    assert run.task["view"] == {
        "crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3, "crop_mode": "squash"
    }  # fmt: skip
    row = run_row(run)
    assert row["status"] == "ok", row["reason"]
    assert any("starts from ViTForImageClassification" in note for note in row["notes"])
    assert any("of the preprocessor of ViTForImageClassification" in note for note in row["notes"])
    assert row["cost"]["kept_share"] < 1 and row["cls"] == "learned"
    again = run_row(run)
    assert again["metrics"] == row["metrics"] and again["key"] == row["key"]


def test_weights_of_the_folder_arrive_and_another_head_stays_random(tmp_path):
    folder, x = saved(tmp_path / "m", "Dinov2ForImageClassification", num_labels=4), torch.randn(2, 3, SIDE, SIDE)
    theirs = transformers.Dinov2ForImageClassification.from_pretrained(folder).eval()
    ours = build_hf({"name": "hf", "model": str(folder), "img_size": SIDE, "patch_size": 4}, 4)
    assert not torch.equal(ours(x).logits, theirs(x).logits)
    assert load_folder(ours, folder) == [] and torch.equal(ours(x).logits, theirs(x).logits)
    more = build_hf({"name": "hf", "model": str(folder), "img_size": SIDE, "patch_size": 4}, 6)
    assert "another number of outputs" in load_folder(more, folder)[0]
    assert torch.equal(more.dinov2(x).last_hidden_state, theirs.dinov2(x).last_hidden_state) and more(x).logits.shape == (2, 6)
    with pytest.raises(CheckpointMismatch, match="holds no weights|does not fit"):
        (folder / "model.safetensors").unlink()
        load_folder(ours, folder)


def test_an_untouched_head_is_not_judged(tmp_path):
    row = run_row(run_of(tmp_path, "ViTForImageClassification", num_labels=7))
    assert row["status"] != "ok" and "brings no head that fits" in row["reason"]


def test_the_key_is_of_the_content(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    keys = [run_key(run_of(place, "ViTForImageClassification", "method=tome", num_labels=4)) for place in (first, second)]
    assert keys[0] == keys[1]
    path = second / "ViTForImageClassification" / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.5", "0.4"))
    assert run_key(run_of(second, "ViTForImageClassification", "method=tome")) != keys[0]


@pytest.mark.parametrize(
    ("said", "view"),
    [
        ({"size": 224, "resample": 3}, {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash"}),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, {"crop_pct": 0.875}),
        ({"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224}, {"crop_pct": 0.875, "crop_mode": "squash"}),
        ({"size": 224, "do_normalize": False}, {"mean": [0.0] * 3, "std": [1.0] * 3, "crop_mode": "squash"}),
    ],
)
def test_preprocessors_in_words(tmp_path, said, view):
    (tmp_path / "config.json").write_text("{}")
    assert folder_view(str(tmp_path)) == {}
    usual = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    for name, content in (
        ("processor_config.json", {"image_processor": {**usual, **said}}),
        ("preprocessor_config.json", {**usual, **said}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        found = folder_view(str(tmp_path))
        assert {name: found[name] for name in view} == view and ("crop_mode" in found) == ("crop_mode" in view)
    words = about_view({**found, "mean": [0.9] * 3}, {"name": "hf", "model": str(tmp_path)})
    assert "of the preprocessor of" in words and "mean [0.9, 0.9, 0.9] as given (there: mean" in words


def test_preprocessors_without_words_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    usual = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for said, words in (({"rescale_factor": 1 / 127.5}, "rescale_factor"), ({"size": {"shortest_edge": 224}}, "does not crop")):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**usual, **said}))
        with pytest.raises(InvalidConfig, match=words):
            folder_view(str(tmp_path))


def test_sizes_of_folders(tmp_path):
    for config, sizes in (
        ({"model_type": "clip", "vision_config": {}}, (224, 32, True)),
        ({"model_type": "siglip", "vision_config": {"image_size": 384, "patch_size": 14}}, (384, 14, False)),
        ({"model_type": "vit", "image_size": [64, 64], "patch_size": 8}, (64, 8, True)),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert tuple(folder_value(str(tmp_path), name) for name in ("img_size", "patch_size", "class_token")) == sizes
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidConfig, match="cannot be read"):
        folder_view(str(tmp_path)) or build_hf({"name": "hf", "model": str(tmp_path)})


def test_what_is_no_folder_is_refused_before_anything_runs(tmp_path):
    for given, words in (((), "backbone.model is not set"), ((f"backbone.model={tmp_path / 'none'}",), "there is no .*config.json")):
        with pytest.raises(InvalidConfig, match=words):
            validate(resolve(compose(["task=classification", "backbone=hf", "data=unlabelled", "measure=[cost]", *given])), files=False)
    with pytest.raises(InvalidConfig, match="backbone.img_size is 64, and the model in .* has 32; leave it out"):
        validate(run_of(tmp_path, "ViTForImageClassification", "backbone.img_size=64", num_labels=4))


def test_layer_wise_learning_rates():
    model = small("ViTForImageClassification")
    scales = {name: s for (name, _), (_, s) in zip(model.named_parameters(), layer_scales(model, 0.5), strict=True)}
    assert scales["classifier.weight"] == scales["vit.layernorm.weight"] == 1
    assert scales["vit.layers.3.mlp.fc1.weight"] == 0.5 and scales["vit.layers.0.mlp.fc1.weight"] == 0.5**4
    assert scales["vit.embeddings.cls_token"] == 0.5**5


@pytest.mark.parametrize("label", ["CLIPModel", "SiglipModel"])
def test_zero_shot_is_the_models_own_similarity(tmp_path, label):
    """Dense, and with everything kept: the class whose text transformers itself finds nearest."""
    more = ["cls=mean"] if label == "SiglipModel" else []
    run = run_of(tmp_path, label, task="zero_shot")
    row = run_row(run)
    assert row["status"] == "ok", row["reason"]
    assert any("zero-shot over 1 prompt(s) a class" in note for note in row["notes"]) and row["cost"]["gmac_total"] > 0
    model = getattr(transformers, label).from_pretrained(tmp_path / label).eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / label)
    texts = words(["a photo of a Alpha.", "a photo of a beta.", "a photo of a n10.", "a photo of a n2."], return_tensors="pt",
                  padding="max_length" if label == "SiglipModel" else True,
                  max_length=model.config.text_config.max_position_embeddings)  # fmt: skip
    task = get("task", "zero_shot")()
    ours = task.build_model(run).eval()
    load_folder(ours.pruned.backbone, tmp_path / label)
    parts = list(task._images(run).first("val", 12, 4, torch.device("cpu")))
    images, truth = (torch.cat([part[i] for part in parts]) for i in range(2))
    with torch.no_grad():
        expected = model(pixel_values=images, input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]).logits_per_image
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)
    predicted = expected.argmax(1)
    assert row["metrics"]["top1"] == pytest.approx(100 * float((predicted == truth).float().mean()))
    pruned = run_row(run_of(tmp_path, label, "method=tome", *more, task="zero_shot"))
    assert pruned["status"] == "ok" and pruned["cost"]["gmac_total"] < row["cost"]["gmac_total"]


def test_prompts_are_averaged_and_names_given(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("alpha\nbeta\nten\ntwo\n")
    prompts = ["task.prompts=['a photo of a {}.','a {}']", f"task.class_names={names}"]
    run = run_of(tmp_path, "CLIPModel", *prompts, task="zero_shot")
    assert run.task["class_names"] == {"0": "alpha", "1": "beta", "2": "ten", "3": "two"}
    key = run_key(run)
    names.write_text("alpha\nbeta\nten\nof\n")
    assert run_key(run_of(tmp_path, "CLIPModel", *prompts, task="zero_shot")) != key
    model = get("task", "zero_shot")().build_model(run).eval()
    assert model.texts[2] == ["a photo of a ten.", "a ten"]
    classes, apart = model.classes(), []
    for number in range(2):
        model.texts = [[texts[number]] for texts in model.texts] if number == 0 else [[f"a {n}"] for n in ("alpha", "beta", "ten", "two")]
        apart.append(model.classes())
    torch.testing.assert_close(classes, torch.nn.functional.normalize(apart[0] + apart[1], dim=-1))
    assert pruned_of(model) is model.pruned


def test_zero_shot_refuses_what_it_cannot_do(tmp_path):
    for more, words in (
        (["training.iterations=3"], "training.iterations is 3; allowed: 0"),
        (["init=dense", "method=tome"], "init is 'dense'"),
        (["task.prompts=[a photo]"], r"task.prompts has 'a photo'; allowed: one \{\} in each"),
    ):
        with pytest.raises(InvalidConfig, match=words):
            validate(run_of(tmp_path, "CLIPModel", *more, task="zero_shot"))
    row = run_row(run_of(tmp_path, "ViTForImageClassification", task="zero_shot", num_labels=4))
    assert "which has no text tower" in row["reason"]
    with pytest.raises(InvalidConfig, match="has 3 names, and the data have 2 classes"):
        names_of(["a", "b"], {"0": "x", "1": "y", "2": "z"})
    with pytest.raises(InvalidConfig, match="has no name for b"):
        names_of(["a", "b"], {"a": "x"})
    with pytest.raises(InvalidConfig, match="cannot be read"):
        names_of(["a"], str(tmp_path / "none.txt"))
    assert names_of(["tree_frog"], None) == ["tree frog"]
