"""Exported models give the same logits, whatever the batch, for every method of the registry that has a fixed count."""

import json

import pytest
import torch

from tests.helpers.pairings import pruned, selectors, tiny_vit
from tokenprune.cli import export as exporting
from tokenprune.errors import CheckpointMismatch, ExportRefused, InvalidConfig, MissingDependency
from tokenprune.registry import get
from tokenprune.runs.run_key import plugins_of
from tokenprune.utils.checkpoints import save_weights

pytestmark = pytest.mark.system

SIZE = (32, 32)
CHOSEN = {"svit": {"eval_mode": "topk"}}
NO_ONNX = {"random"}  # its draw hashes the bits of the picture
# ONNX takes three times as long as torch.export: those that decide in different places and ways always run, the others with `-m slow`.
IN_BOTH = ("cropr", "dynamicvit", "evit", "svit")  # of each place of a decision one; the others are slow tests
TWICE = ("dynamicvit", "evit")  # decide a second time, among the tokens that are left: before a block and inside it


def models() -> list[str]:
    """Every selector once, with the options that fix its count."""
    return sorted({s["name"] for s in selectors()})


def model_of(name: str, decisions: int = 1):
    """A model with a block before its decisions and one after them: tracing takes most of the time."""
    kind, plan = get("selector", name), {"name": "stages", "blocks": list(range(1, decisions + 1))}
    return pruned({"name": name, **CHOSEN.get(name, {})}, kind.published["treatment"], plan, vit=tiny_vit(depth=decisions + 2))


def onnx_there() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"ONNX export needs {module}, which is not installed")


LARGE = ("atc", "mctf", "ppt", "kmedoids", "dpc_knn")  # their programs have many operations and take ten seconds each to trace


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in models() if name not in IN_BOTH]
)
def test_exported_logits_are_the_models(name, tmp_path):
    exported(name, 1, tmp_path, onnx=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models() if name not in IN_BOTH])
def test_logits_of_onnx_are_the_models_too(name, tmp_path):
    exported(name, 1, tmp_path, onnx=name not in NO_ONNX)


@pytest.mark.parametrize(("name", "decisions"), [(name, 1 + (name in TWICE)) for name in IN_BOTH])
def test_logits_of_both_formats_are_the_models(name, decisions, tmp_path):
    exported(name, decisions, tmp_path, onnx=True)


def exported(name, decisions, tmp_path, onnx):
    """Export a method and hold the logits of the files against the model's."""
    if onnx:
        onnx_there()
    model = model_of(name, decisions)
    if any(s.counts_vary for s in model.selectors.values()):
        with pytest.raises(ExportRefused, match=f"selector '{name}' keeps a different number"):
            exporting.exportable(model)
        return
    found = exporting.export(model, SIZE, tmp_path / "m.pt2", tmp_path / "m.onnx" if onnx else None)
    assert len(found) == 1 + onnx and max(found.values()) <= 1e-4


def test_at_least_eight_methods_are_exported():
    fixed = [n for n in models() if not any(s.counts_vary for s in model_of(n).eval().selectors.values())]
    assert {"evit", "dynamicvit", "evo_vit", "tome", "topk", "cropr", "variance", "svit"} <= set(fixed)


def test_what_onnx_does_not_have_is_refused_by_name(tmp_path):
    onnx_there()
    program = exporting.to_program(exporting.exportable(model_of("random")), SIZE)
    with pytest.raises(ExportRefused, match=r"No ONNX function.*--pt2"):
        exporting.save_onnx(program, tmp_path / "m.onnx")


@pytest.mark.parametrize(("selector", "fix"), [("svit", "eval_mode=topk"), ("ats", "evit or dynamicvit")])
def test_dynamic_counts_are_refused_with_the_fix(selector, fix):
    with pytest.raises(ExportRefused, match=fix):
        exporting.exportable(pruned(selector, "preserve"))


def test_a_file_that_differs_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "load_pt2", lambda path: lambda images: torch.full((len(images), 5), 9.0))
    with pytest.raises(ExportRefused, match=r"m\.pt2 differs from the model by .*allowed is 0.0001"):
        exporting.export(model_of("topk"), SIZE, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    def gone(name):
        raise ImportError(name=name)

    monkeypatch.setattr(exporting.importlib, "import_module", gone)
    with pytest.raises(MissingDependency, match=r"needs onnx: pip install 'tokenprune\[export\]'"):
        exporting.export(model_of("topk"), SIZE, onnx=tmp_path / "m.onnx")


def test_the_command_exports_a_timm_model(tmp_path, capsys, monkeypatch):
    import timm

    small = {"embed_dim": 24, "num_heads": 3, "depth": 4}
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: make(name, **small, **options))
    vit = make("deit_tiny_patch16_224", **small, num_classes=5, img_size=64)
    save_weights(tmp_path / "vit.safetensors", vit)
    axes = ["--selector", "evit", "--schedule", "{name: stages, keep_rate: 0.5, blocks: [1, 2]}"]
    plain = ["--model", "deit_tiny_patch16_224", "--classes", "5", "--size", "64", "--weights", str(tmp_path / "vit.safetensors")]
    assert exporting.main([*plain, *axes, "--pt2", str(tmp_path / "out" / "m.pt2")]) == 0
    assert "images (batch,3,64,64) to logits; largest difference to the model" in capsys.readouterr().out
    expected = exporting.prune(vit, "evit", None, {"name": "stages", "keep_rate": 0.5, "blocks": [1, 2]}).eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exporting.load_pt2(tmp_path / "out" / "m.pt2")(images), expected(images))


@pytest.fixture
def row(tmp_path, monkeypatch):
    """A row of a trained SViT classifier, thresholds in use."""
    config = {
        "backbone": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3},
        "selector": {"name": "svit"},
        "treatment": {"name": "reactivate"},
        "schedule": {"name": "every_block", "start": 1},
        "data": {"name": "shapes", "side": 32},
        "task": {"name": "classification"},
    }
    from tokenprune.tasks.encoder import build_pruned

    model = build_pruned(config, num_classes=5)
    save_weights(tmp_path / "model.safetensors", model)
    (tmp_path / "result.json").write_text(json.dumps({"task": "classification", "config": config}))
    monkeypatch.setattr("tokenprune.runs.results.check", lambda row: None)
    return tmp_path


def test_the_command_exports_a_row_and_says_what_stands_in_the_way(row, capsys):
    command = ["--row", str(row), "--pt2", str(row / "m.pt2")]
    assert exporting.main(command) == 1
    assert "selector.eval_mode=topk" in capsys.readouterr().err
    assert exporting.main([*command, "selector.eval_mode=topk"]) == 0
    assert (row / "m.pt2").is_file() and "wrote" in capsys.readouterr().out


def test_rows_without_weights_and_of_other_tasks_are_refused(row):
    (row / "model.safetensors").unlink()
    with pytest.raises(CheckpointMismatch, match="there is no file"):
        exporting.of_row(row)
    (row / "result.json").write_text(json.dumps({"task": "detection", "config": {}}))
    with pytest.raises(ExportRefused, match="only classifiers"):
        exporting.of_row(row)


def test_a_row_of_other_code_is_refused_unless_one_goes_on(row, capsys):
    """The weights would go into a selector that is not the one which was trained and judged."""
    command = ["--row", str(row), "--pt2", str(row / "m.pt2"), "selector.eval_mode=topk"]
    found = json.loads((row / "result.json").read_text())
    now = plugins_of(found["config"])
    (row / "result.json").write_text(json.dumps({**found, "key": "k1", "plugins": now}))
    assert exporting.main(command) == 0 and "changed" not in capsys.readouterr().err
    (row / "m.pt2").unlink()
    then = {**now, "selector.svit": {**now["selector.svit"], "code": "0" * 16}, "data.shapes": {**now["data.shapes"], "code": "1" * 16}}
    (row / "result.json").write_text(json.dumps({**found, "key": "k1", "plugins": then}))
    assert exporting.main(command) == 1 and not (row / "m.pt2").exists()
    assert "the code of selector svit changed since row k1 was made" in capsys.readouterr().err
    assert exporting.main([*command, "--changed-code"]) == 0 and (row / "m.pt2").is_file()
    assert "warning: the code of selector svit changed" in capsys.readouterr().err


def test_a_row_that_is_not_there_is_told_with_where_rows_are(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "results" / "rows" / "0123"
    place.mkdir(parents=True)
    (place / "result.json").write_text("{}")
    for given, near in (("0123", "Did you mean results/rows/0123?"), ("results/rows/none", "holds result.json.\n")):
        assert exporting.main(["--row", given, "--pt2", "m.pt2"]) == 1
        text = capsys.readouterr().err
        assert (
            f"there is no row at {given}; give the folder of a row, results/rows/KEY" in text and near in text and "remove it" not in text
        )


def test_an_unknown_model_is_refused():
    with pytest.raises(InvalidConfig, match="timm has no model 'deit_smal'"):
        exporting.of_timm("deit_smal", None, 5, None, {"selector": "evit"})


@pytest.mark.parametrize(
    ("arguments", "text"), [([], "either --row or --model"), (["--row", "x", "--model", "y"], "either"), (["--row", "x"], "name a file")]
)
def test_what_is_missing_on_the_command_line_is_named(arguments, text, capsys):
    with pytest.raises(SystemExit):
        exporting.main(arguments)
    assert text in capsys.readouterr().err


def test_exporting_leaves_the_model_as_it_was():
    model = pruned("evit", "fuse", execution="masked").train()
    assert not exporting.exportable(model).training
    assert model.training and model.execution == "masked"
