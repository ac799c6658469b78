"""Writes a pruned model for deployment, with torch.export (.pt2) and as ONNX, for any batch size: `python -m tokenprune.export`.

Only decisions of a known count can be exported, because every image of a batch must end up with as many tokens. Everything else is refused
by name. Each written file is run again and compared with the model itself.
"""

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from yaml import YAMLError

from tokenprune.engine.prune import prune
from tokenprune.errors import CannotWrite, ExportRefused, InvalidConfig, MissingDependency, ResultSchemaError, TokenPruneError
from tokenprune.utils import console
from tokenprune.utils.paths import home_path
from tokenprune.utils.settings import leaves, nearest_setting

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT

TOLERANCE = 1e-4  # largest allowed difference of a logit from that of the model itself
BATCHES = (1, 3)  # batch sizes of the comparison; neither is the one that is traced
Run = Callable[[Tensor], Tensor]


def exportable(model: "PrunedViT") -> "PrunedViT":
    """Return a copy of a model for export: in evaluation mode, without the parts that only training needs, with gathered decisions.

    Raises:
        ExportRefused: A selector keeps another number of tokens in each image, or needs masked execution.
    """
    model = model.deploy()
    model.execution = "auto"  # a row may have asked for masked execution, which computes the tokens that it drops
    for selector in model.selectors.values():
        if selector.counts_vary:
            raise ExportRefused(_why_not(selector))
    return model


def to_program(model: "PrunedViT", size: tuple[int, int]) -> torch.export.ExportedProgram:
    """Return the program of a model from `exportable`: images (B,3,h,w) of `size` in pixels, any B, to logits (B,classes).

    Raises:
        ExportRefused: torch.export cannot trace the model.
    """
    images = torch.zeros(2, 3, *size)
    try:
        with torch.no_grad():
            return torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}})
    except Exception as error:  # torch has dozens of kinds
        why = (str(error).strip().splitlines() or [""])[0]
        raise ExportRefused(f"torch.export cannot hold this model ({type(error).__name__}: {why}); run it in Python instead") from error


def save_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as ONNX, with input `images` and output `logits`.

    Raises:
        MissingDependency: onnx or onnxscript is not installed.
        ExportRefused: ONNX does not have one of the operations.
    """
    from tokenprune.engine.onnx_operators import stable_sorts

    _needed("onnx", "onnxscript")
    names = {"input_names": ["images"], "output_names": ["logits"]}
    try:
        found = torch.onnx.export(program, (), dynamo=True, verbose=False, custom_translation_table=stable_sorts(), **names)
    except torch.onnx.OnnxExporterError as error:
        lines = [line for line in str(error).splitlines() if "No ONNX function" in line]
        raise ExportRefused(f"ONNX cannot hold this model: {lines[0] if lines else error}; write it with --pt2 instead") from error
    found.save(str(path))


def load_pt2(path: Path) -> Run:
    """Return a call that runs a .pt2 file."""
    return torch.export.load(path).module()


def load_onnx(path: Path) -> Run:
    """Return a call that runs an ONNX file.

    Raises:
        MissingDependency: onnxruntime is not installed.
    """
    session = _needed("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def largest_difference(model: nn.Module, run: Run, size: tuple[int, int]) -> float:
    """Return the largest difference of any logit between a model and its export, over random images in batches of `BATCHES`."""
    generator, worst = torch.Generator().manual_seed(0), 0.0
    with torch.no_grad():
        for count in BATCHES:
            images = torch.randn(count, 3, *size, generator=generator)
            worst = max(worst, float((model(images) - run(images)).abs().max()))
    return worst


def export(model: "PrunedViT", size: tuple[int, int], pt2: Path | None = None, onnx: Path | None = None) -> dict[Path, float]:
    """Write a model to the named files; return each file's largest difference from the model itself.

    Args:
        model: A classifier, in any mode; it is not changed.
        size: Size (h,w) of the images in pixels.
        pt2: File for torch.export; None for none.
        onnx: File for ONNX; None for none.

    Raises:
        ExportRefused: See `exportable`; also if the logits of a file differ by more than `TOLERANCE`. That file is removed.
    """
    if onnx is not None:
        _needed("onnx", "onnxscript", "onnxruntime")
    model = exportable(model)
    program, result = to_program(model, size), {}
    writers = {pt2: (lambda path: torch.export.save(program, path), load_pt2), onnx: (lambda path: save_onnx(program, path), load_onnx)}
    for path, (save, load) in writers.items():
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path)
        except OSError as error:
            raise CannotWrite(f"cannot write {path}: {error.strerror or error}; give another file") from error
        result[path] = largest_difference(model, load(path), size)
        if not result[path] <= TOLERANCE:
            path.unlink()
            raise ExportRefused(f"{path.name} differs from the model by {result[path]:.1e}, allowed is {TOLERANCE:g}; it was removed")
    return result


def of_row(folder: Path, overrides: Sequence[str] = (), changed: bool = False) -> tuple["PrunedViT", tuple[int, int]]:
    """Return the trained classifier of a results row and the size of its images.

    Args:
        folder: results/rows/KEY.
        overrides: Values of the configuration to change, such as "selector.eval_mode=topk".
        changed: Whether to go on, with a warning, if the code of the row's plugins is not what it was when the row was made.

    Raises:
        ResultSchemaError: There is no such row.
        CheckpointMismatch: There are no weights.
        ExportRefused: The row is not a classifier, or the code of its plugins changed.
    """
    from tokenprune.runs.results import read_result, row_folder
    from tokenprune.runs.row import WEIGHTS
    from tokenprune.tasks.encoder import build_pruned
    from tokenprune.utils.checkpoints import load_weights, read_weights

    if not (folder / "result.json").is_file():
        there = row_folder("results", folder.name)
        near = f" Did you mean {there}?" if there != folder and (there / "result.json").is_file() else ""
        raise ResultSchemaError(f"there is no row at {folder}; give the folder of a row, results/rows/KEY, which holds result.json.{near}")
    row = read_result(folder / "result.json")
    if row["task"] != "classification":
        raise ExportRefused(f"{folder.name} is of task={row['task']}; only classifiers are exported: take a row of task=classification")
    _check_code(row, changed)
    config = _changed(row["config"], overrides)
    head = read_weights(folder / WEIGHTS).get("backbone.head.bias")
    model = build_pruned(config, num_classes=0 if head is None else len(head))
    load_weights(folder / WEIGHTS, model)
    side = config["data"].get("side") or config["backbone"].get("img_size", 224)
    return model, (side, side)


def _check_code(row: Mapping[str, Any], changed: bool) -> None:
    from tokenprune.runs.run_key import changed_code

    words = changed_code(row)
    if words and not changed:
        raise ExportRefused(f"{words}: the model would not be the one that was judged; run the row again, or go on with --changed-code")
    if words:
        console.warn(f"{words}: this is not the model that was judged")


def of_timm(
    name: str, weights: Path | None, classes: int, side: int | None, axes: Mapping[str, Any]
) -> tuple["PrunedViT", tuple[int, int]]:
    """Return a pruned timm model and the size of its images.

    Args:
        name: Name of the model in timm.
        weights: A file of its weights (.safetensors, .pt, .pth); None for random ones.
        classes: Outputs of the head.
        side: Side of the images in pixels; None for the model's own.
        axes: `selector`, and as wanted `treatment` and `schedule`, as `tokenprune.prune` takes them.

    Raises:
        InvalidConfig: timm has no such model. The errors of `prune` and `load_vit` are raised, too.
    """
    from tokenprune.backbones.vit import timm_classifier
    from tokenprune.backbones.weights import load_vit

    vit = timm_classifier(name, classes, side)
    pruned = prune(vit, **axes)  # first, because it says which models can be pruned
    for note in load_vit(vit, weights) if weights is not None else ["the weights are random: give --weights FILE"]:
        console.warn(note)
    return pruned, pruned.family.own_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Export the model that the arguments name; return 0, or 1 after an error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.row is None) == (options.model is None):
        parser.error("give either --row or --model")
    if options.pt2 is None and options.onnx is None:
        parser.error("name a file to write: --pt2 FILE, --onnx FILE or both")
    try:
        if options.row is not None:
            model, size = of_row(options.row, options.overrides, options.changed_code)
        else:
            given = {axis: OmegaConf.to_container(OmegaConf.create({"v": _value(getattr(options, axis))}))["v"] for axis in AXES}
            axes = {axis: value for axis, value in given.items() if value is not None}
            model, size = of_timm(options.model, options.weights, options.classes, options.size, axes)
        for path, difference in export(model, size, options.pt2, options.onnx).items():
            console.say(f"wrote {path}: images (batch,3,{size[0]},{size[1]}) to logits; largest difference to the model {difference:.1e}")
    except TokenPruneError as error:
        console.fail(str(error))
        return 1
    return 0


AXES = ("selector", "treatment", "schedule")


def _changed(config: Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """Return the configuration of a row with some values changed, all of which it has."""
    wrong = [word for word in overrides if "=" not in word]
    if wrong:
        raise InvalidConfig(f"{wrong[0]!r} sets nothing: write KEY=VALUE, e.g. selector.eval_mode=topk")
    known = leaves(config)
    for path in (word.partition("=")[0] for word in overrides):
        if path not in known and path.partition(".")[0] not in AXES:  # whose plugins check their options
            raise InvalidConfig(f"the row has no setting {path!r}.{nearest_setting(path, known)}")
    try:
        return OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides))))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InvalidConfig(f"cannot read {' '.join(overrides)!r}: {' '.join(str(error).split())}") from error


def _why_not(selector: nn.Module) -> str:
    import inspect

    text = f"selector {selector.name!r} keeps a different number of tokens in each image, which a fixed program cannot hold"
    if "eval_mode" in inspect.signature(type(selector)).parameters:
        return f"{text}; keep the schedule's count with eval_mode=topk (selector.eval_mode=topk for a row)"
    return f"{text}, and has no mode of equal counts; take one with a fixed count, such as evit or dynamicvit, or svit with eval_mode=topk"


def _needed(*names: str) -> Any:
    """Import some optional modules and return the last of them.

    Raises:
        MissingDependency: One of them is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names][-1]
    except ImportError as error:
        raise MissingDependency(f"ONNX export needs {error.name}: pip install 'tokenprune[export]'") from error


def _value(text: str | None) -> Any:
    """Return a name, or the mapping of a YAML text such as {name: stages, keep_rate: 0.5}."""
    if text is None or not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return OmegaConf.create(text)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InvalidConfig(
            f"{text!r} is no mapping: {' '.join(str(error).split())}; allowed: '{{name: stages, keep_rate: 0.5}}'"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        console.program("export"),
        description="Write a pruned classifier for deployment, with torch.export and as ONNX: any batch size, images of one size, already"
        " normalised, in; logits out. The files are run again and compared with the model.",
    )
    parser.add_argument("--row", type=home_path, help="a results row to export, results/rows/KEY")
    parser.add_argument(
        "--changed-code", action="store_true", help="with --row: go on if the code of its plugins changed since the row was made"
    )
    parser.add_argument("overrides", nargs="*", help="values to change in the row's configuration, such as selector.eval_mode=topk")
    parser.add_argument("--model", help="instead of a row: a timm model, such as deit_small_patch16_224")
    parser.add_argument("--weights", type=home_path, help="with --model: its weights, .safetensors, .pt or .pth")
    parser.add_argument("--classes", type=int, default=1000, help="with --model: outputs of the head (default: 1000)")
    parser.add_argument("--size", type=int, help="with --model: side of the images in pixels (default: the model's own)")
    for axis, example in zip(AXES, ("evit", "fuse", "{name: stages, keep_rate: 0.5}"), strict=True):
        parser.add_argument(f"--{axis}", help=f"with --model: a name or a mapping, such as '{example}'")
    parser.add_argument("--pt2", type=home_path, help="file for torch.export.load")
    parser.add_argument("--onnx", type=home_path, help="file for ONNX runtimes")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
