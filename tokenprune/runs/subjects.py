"""Builds the models that `tokenprune show` compares: a row's own, the same weights with every token, and with other methods."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenprune.data import data_source
from tokenprune.engine.model import PrunedViT, pruned_of
from tokenprune.engine.prune import prune
from tokenprune.errors import InvalidConfig, TokenPruneError, hint
from tokenprune.registry import get
from tokenprune.registry import names as plugins
from tokenprune.runs import untrained
from tokenprune.runs.presets import choices, files, read
from tokenprune.tasks.pictures import Picture

DENSE = "Dense"
UNTRAINED = "the weights hold no parameters of this method's own, so these are random: the picture is not one of the trained method"
_AXES = ("selector", "treatment", "schedule")
_ADDED = ("selectors.", "class_token", "fusion")  # what pruning adds to a model
_EXAMPLE = "evit, tome:remove=8 or svit:keep_rate=0.5,treatment=preserve"


@dataclass(frozen=True)
class Method:
    """Holds a method as a word of the command line names it.

    Attributes:
        label: Its name for people.
        axes: selector, treatment and schedule as `prune` takes them; {} for the dense model.
    """

    label: str
    axes: Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """Holds a model to show.

    Attributes:
        label: Name of its method.
        about: Its treatment and schedule in words.
        look: Returns pictures as the model sees them, of pixels (h,w,3) uint8.
        notes: What a reader must know of it.
        dense: Whether it keeps every token.
    """

    label: str
    about: str
    look: Callable[[Sequence[np.ndarray]], Iterator[Picture]]
    notes: tuple[str, ...] = ()
    dense: bool = False


def method_of(word: str) -> Method:
    """Return the method that a word names: NAME of a preset (conf/method) or of a selector, then `:KEY=VALUE,...`.

    A key is an option of the schedule, or `treatment` or `schedule` with a name, or AXIS.OPTION.

    Raises:
        InvalidConfig: There is no such method, or an option says nothing.
    """
    name, _, options = word.partition(":")
    presets = {path.stem: path for path in files("method")}
    if name in presets:
        preset = read(presets[name])
        axes: dict[str, Any] = {axis: {"name": chosen} for axis, chosen in choices(preset).items() if axis in _AXES}
        label = str(preset.get("label", name)) + (" fused" if name == "evit_fused" else "")
    elif name in plugins("selector"):
        axes, label = {"selector": {"name": name}}, get("selector", name).shown_label()
    else:
        known = sorted({*presets, *plugins("selector")} - {"none"})
        raise InvalidConfig(f"there is no method {name!r}.{hint(name, known)} Allowed: {', '.join(known)}; with options: {_EXAMPLE}")
    if axes["selector"]["name"] == "none":
        axes = {}
    for option in filter(None, options.split(",")):
        _set(axes, option, word)
    return Method(f"{label} ({options})" if options else label, axes)


def _set(axes: dict[str, Any], option: str, word: str) -> None:
    from omegaconf import OmegaConf

    key, equals, text = option.partition("=")
    if not equals or not key or not axes:
        raise InvalidConfig(f"method {word!r}: {option!r} sets nothing; allowed: {_EXAMPLE}")
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    value = given["value"]
    axis, dot, inner = key.partition(".")
    if key in ("treatment", "schedule"):
        axes[key] = {"name": value}
    elif dot and axis in _AXES:
        axes[axis] = {**axes.get(axis, {}), inner: value}
    else:
        axes["schedule"] = {**axes.get("schedule", {}), key: value}


def of_timm(name: str, weights: Path, methods: Sequence[Method], names: Sequence[str] = (), side: int | None = None) -> list[Subject]:
    """Return a timm classifier with every token, and with each method, all of one file of weights. Nothing is downloaded.

    Args:
        name: timm's name of the model.
        weights: File of its weights, of timm, of a paper or of this project.
        methods: The methods.
        names: Names of the classes; () takes ImageNet's for a head of 1000 outputs.
        side: Side of the images in pixels; None takes the model's own.

    Raises:
        InvalidConfig: timm has no such model, or cannot make it.
        CheckpointMismatch: The file is of another model.
        TokenPruneError: A method does not fit the model; see `tokenprune.prune`.
    """
    from tokenprune.zoo.release import read_release

    outputs = _outputs(read_release(weights).state)
    called = tuple(names) or (imagenet_names() if outputs == _IMAGENET else ())
    return [_timm_subject(method, name, weights, outputs, called, side) for method in (Method(DENSE, {}), *methods)]


def _timm_subject(method: Method, name: str, weights: Path, outputs: int | None, names: Sequence[str], side: int | None) -> Subject:
    from tokenprune.backbones.vit import timm_classifier
    from tokenprune.backbones.weights import load_vit
    from tokenprune.tasks.classification.looking import looked
    from tokenprune.zoo.load import load_into

    model = prune(timm_classifier(name, outputs, side), **method.axes)
    drawn = untrained.drawn(model)
    groups = {"task": {"name": "classification"}, **{axis: method.axes.get(axis) for axis in _AXES}}
    published = load_into(model, weights, groups)
    notes = load_vit(model, weights) if published is None else published
    model, look = _ready(model), look_of(model, names)
    return Subject(
        method.label,
        about(model),
        lambda images: (looked(model, image, look, number) for number, image in enumerate(images)),
        (*notes, *_random(drawn)),
        dense=not method.axes,
    )


_IMAGENET = 1000
_HEADS = ("head.weight", "backbone.head.weight", "head.fc.weight", "backbone.head.fc.weight")


def imagenet_names() -> tuple[str, ...]:
    """Return the names of ImageNet-1k's classes, which come with timm."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(str(info.index_to_description(k)).partition(",")[0] for k in range(info.num_classes()))


def _outputs(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of outputs of the head that a file holds; None if it holds none."""
    found = [state[key] for key in _HEADS if key in state and state[key].dim() == 2]
    return len(found[0]) if found else None


def look_of(model: PrunedViT, names: Sequence[str] = (), side: int | None = None) -> Any:
    """Return the `Look` of a classifier: mean, deviation and crop of timm's configuration of it, ImageNet's if it has none.

    Args:
        model: The classifier.
        names: Names of the classes.
        side: Side of the images in pixels; None takes the model's own.
    """
    from timm.data.config import resolve_data_config

    from tokenprune.tasks.classification.looking import Look
    from tokenprune.tasks.classification.settings import View

    side = side or model.family.own_size[0]
    known = resolve_data_config({}, pretrained_cfg=model.pretrained_cfg or {"input_size": (3, side, side)})
    mean, std = ((float(red), float(green), float(blue)) for red, green, blue in (known["mean"], known["std"]))
    view = View(known["crop_pct"], known["interpolation"], mean, std, known["crop_mode"])
    statistics = (tuple(255 * v for v in mean), tuple(255 * v for v in std))
    return Look(view, side, statistics, names)


def of_row(folder: Path, methods: Sequence[Method], dense: bool = True) -> list[Subject]:
    """Return the model of a result row, the same weights with every token, and with each method.

    Args:
        folder: The row's folder, or a file in it.
        methods: Further methods.
        dense: Whether to put the same weights with every token in front.

    Raises:
        TokenPruneError: There is no such row, it has no model, or a method does not fit it.
        CheckpointMismatch: The weights are of another model.
    """
    stored = _Stored.read(folder)
    own = Method(stored.label, {axis: stored.config[axis] for axis in _AXES})
    drops = stored.config["selector"].get("name", "none") != "none"
    first = [stored.subject(Method(DENSE, {}), own=False)] if dense and drops else []
    return [*first, stored.subject(own, own=True), *(stored.subject(method, own=False) for method in methods)]


SHIPPED = {"demo": ("classification", "demo_classifier"), "demo_detector": ("detection", "demo")}  # name: task, weights


def of_shipped(name: str, methods: Sequence[Method]) -> list[Subject]:
    """Return a model of `SHIPPED`, which come with the package, with every token and with each method."""
    stored = _Stored.shipped(name)
    return [stored.subject(method, own=False) for method in (Method(DENSE, {}), *methods)]


def shipped_pictures(name: str, count: int) -> list[np.ndarray]:
    """Return embedded pictures (h,w,3) uint8 that the model of that name was not trained on."""
    stored = _Stored.shipped(name)
    data = data_source(stored.config["data"]).open(SHIPPED[name][0], "val")
    samples = [data[number] for number in range(count)]
    return [sample.image if hasattr(sample, "image") else sample[0] for sample in samples]


@dataclass(frozen=True)
class _Stored:
    """Holds the weights of a row and the run that made them; `label` is the name of the row's method."""

    label: str
    config: Any
    path: Path
    names: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "_Stored":
        """Read a row.

        Raises:
            TokenPruneError: There is none, or it has no model to show.
        """
        import json

        from tokenprune.runs.heads import CLASS_NAMES
        from tokenprune.runs.results import read_result
        from tokenprune.runs.row import WEIGHTS
        from tokenprune.runs.run import Run
        from tokenprune.runs.run_key import changed_code
        from tokenprune.utils.checkpoints import read_metadata

        folder = folder if folder.is_dir() else folder.parent
        row, path = read_result(folder / "result.json"), folder / WEIGHTS
        if row["status"] != "ok" or not path.is_file() or row["task"] == "timm":
            why = f"ended as {row['status']}: {row['reason']}" if row["status"] != "ok" else "has no pruned model"
            why = why if path.is_file() else f"has no {WEIGHTS}"
            raise TokenPruneError(f"row {folder} {why}; give a row of a pruned model that was trained or judged, results/rows/KEY")
        config = {**row["config"], "backbone": {**row["config"]["backbone"], "pretrained": None}, "validate_only": False}
        words = changed_code(row)
        notes = (f"{words}: what is shown is not the model that was judged",) if words else ()
        return cls(row["label"], Run.of(config), path, tuple(json.loads(read_metadata(path).get(CLASS_NAMES, "[]"))), notes)

    @classmethod
    def shipped(cls, name: str) -> "_Stored":
        """Return a model of `SHIPPED`."""
        from tokenprune.runs.config import compose, resolve
        from tokenprune.runs.run import Run
        from tokenprune.utils.paths import weights_path

        task, weights = SHIPPED[name]
        run = Run.of(resolve(compose([f"task={task}", "method=dense", "scale=demo"])))
        names = tuple(data_source(run["data"]).open(task, "val").classes)
        return cls(DENSE, run, weights_path(weights), names, ())

    def subject(self, method: Method, own: bool) -> Subject:
        """Return the row's weights with a method; `own` for the row's, whose selectors are in the file."""
        from tokenprune.utils.checkpoints import load_weights

        run = self.config if own else self._with(method)
        task = run.task_kind()
        model = self._built(task, run)
        inside = _inside(model)
        drawn = untrained.drawn(model)
        added = () if own else _ADDED
        load_weights(self.path, model, drop=added, allow_missing=added)
        model = _ready(model)
        notes = (*self.notes, *(() if own else _random(drawn)))
        return Subject(
            method.label,
            about(inside),
            lambda images: task.look(model, run, images, self.names),
            notes,
            dense=not inside.selectors,
        )

    def _with(self, method: Method) -> Any:
        none = {"name": "none"}
        return replace(self.config, losses={}, **{axis: method.axes.get(axis) or (none if not method.axes else {}) for axis in _AXES})

    def _built(self, task: Any, run: Any) -> nn.Module:
        """Return the model, by the names of classes in the weights if they are there, so that no data set is needed."""
        if not self.names:
            return task.build_model(run)
        return task.build(run, len(self.names) + int(run.task.get("token_labels", 0) > 0))


def _ready(model: Any) -> Any:
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _inside(model: nn.Module) -> PrunedViT:
    found = pruned_of(model)
    if found is None:
        raise TokenPruneError(f"{type(model).__name__} has no pruned encoder; give a row or a model that tokenprune can prune")
    return found


def _random(drawn: Any) -> list[str]:
    """Return a note if parts that pruning added are still as they were drawn."""
    return [UNTRAINED] if untrained.notes(drawn) else []


def about(model: PrunedViT) -> str:
    """Return the treatment and the schedule of a model in words."""
    if not model.selectors:
        return "every token in every block"
    rate = getattr(model.schedule, "keep_rate", None)
    remove = getattr(model.schedule, "remove", None)
    told = [f"keep rate {rate:g}"] if rate is not None else [f"{remove} tokens a decision"] if remove is not None else []
    return ", ".join([f"treatment {model.treatment.name}", f"schedule {getattr(model.schedule, 'name', '')}", *told])
