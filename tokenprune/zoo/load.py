"""`tokenprune.load`: the model of a file that the authors of a method published, or that this project wrote, in one line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tokenprune.backbones.vit import read_backbone
from tokenprune.engine.model import pruned_of
from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import get
from tokenprune.utils import console
from tokenprune.utils.checkpoints import copy_state, save_weights
from tokenprune.zoo.compared import method_differences
from tokenprune.zoo.layout import Imported, converted, recognised
from tokenprune.zoo.release import Release, read_release

SETTINGS = "tokenprune.settings"  # key in the header of a file that this project wrote: JSON of `Imported` without its tensors
SETTINGS_OF_ORIGIN = f"{SETTINGS}.of_origin"  # the same of a file that holds the encoder alone, without what the method added to it
_ROW = "result.json"  # beside the weights of a row
_UNSEEN = ("norm_eps", "final_norm_eps", "pool", "pool_includes_prefix", "pos_resample")  # settings of a ViT that no shape shows
_ADVICE = "fetch it again if it is cut off or changed, and give the settings that it was trained with"
_GROUPS = ("task", "backbone", "selector", "treatment", "schedule", "cls", "execution")


def load(path: Path | str, **given: Any) -> nn.Module:
    """Return the model that a file holds, in eval mode on the CPU: a `PrunedViT`, or the whole detector or segmenter.

    The layout is recognised from the keys. Settings that the file says are taken from it.

    Args:
        path: File that the authors of a method published, that `tokenprune zoo convert` wrote, or the weights of a result row.
        given: Settings that the file does not say, for example `keep_rate=0.7`; an error names those that are missing.

    Raises:
        CheckpointMismatch: The file is damaged or of no known layout, settings are missing, or keys are missing or left over.
    """
    imported = read(path, given)
    for note in imported.notes:
        console.say_once(f"{Path(path).name}: {note}")
    return built(imported, Path(path).name)


def read(path: Path | str, given: Mapping[str, Any]) -> Imported:
    """Return a file in this project's words: of its header, of the row beside it, or of the layout that its keys show.

    Raises:
        CheckpointMismatch: See `load`.
    """
    return imported_of(read_release(path), given)


def imported_of(release: Release, given: Mapping[str, Any]) -> Imported:
    """Return the content of a file in this project's words, see `read`."""
    own = _own(release)
    if own is None and SETTINGS_OF_ORIGIN in release.meta:
        origin = release.meta.get("origin", "a published file")
        raise CheckpointMismatch(
            f"{release.name} was written for timm: it holds the encoder of {origin} and not its method;"
            " convert that file with --to tokenprune, or give this one to timm.create_model(..., checkpoint_path=FILE)"
        )
    if own is None:
        return converted(release, given)
    if given:
        raise CheckpointMismatch(f"{release.name} says all settings itself; leave out {', '.join(given)}")
    return own


def built(imported: Imported, name: str) -> nn.Module:
    """Return the model of an imported file with its weights, in eval mode.

    Args:
        imported: The file.
        name: Its name, for messages.

    Raises:
        CheckpointMismatch: Keys are missing, left over or wrongly shaped.
    """
    task = get("task", imported.settings["task"]["name"])()
    model = task.build(imported.settings, imported.classes)
    copy_state(imported.state, model, name, imported.added, _ADVICE)
    return model.eval()


def load_into(model: nn.Module, path: Path | str, settings: Mapping[str, Any]) -> list[str] | None:
    """Copy the weights of a published file into a model that was built already.

    Args:
        model: The model.
        path: The file.
        settings: Groups of a run that the model was built from: `task` and `selector` count; `treatment`, `schedule` and `backbone` are
            compared.

    Returns:
        Remarks on what does not fit; None, with the model untouched, for a file of plain keys: `load_vit` reads those.

    Raises:
        CheckpointMismatch: The file is of the task and does not fit the model, and the message names each key; or it is a detector or a
            segmenter, and the model is none.
    """
    release, task = read_release(path), settings["task"]["name"]
    own = _own(release)
    imported, left_open = (own, ()) if own is not None else _of_task(release, task)
    if imported is None or imported.settings["task"]["name"] != task:
        _refuse_other_tasks(release, task)
        return None
    state, notes, allowed = dict(imported.state), list(imported.notes), imported.added
    theirs, ours = (_name(groups.get("selector")) for groups in (imported.settings, settings))
    if theirs != ours:
        state = {key: value for key, value in state.items() if not _of_selectors(key)}
        allowed = (*allowed, "selectors.", "fusion.", "class_token")
        notes.append(f"the file's selectors are those of {theirs}, the run has {ours}: they are left out")
    copy_state(state, model, release.name, allowed, _ADVICE)
    differing = _differences(imported.settings["backbone"], settings["backbone"]) if "backbone" in settings else _eps(imported, model)
    method = method_differences(imported.settings, settings, left_open) if theirs == ours != "none" else []
    return [*notes, *differing, *method]


def save(path: Path | str, imported: Imported, about: Mapping[str, str] | None = None) -> None:
    """Write an imported file as safetensors that `load` reads in one line: weights, and settings in the header.

    Args:
        path: The new file.
        imported: The file.
        about: Further strings for the header, such as the origin.
    """
    save_weights(path, imported.state, metadata={SETTINGS: in_words(imported), **(about or {})})


def in_words(imported: Imported) -> str:
    """Return everything but the tensors of an imported file as JSON."""
    fields = {"settings": imported.settings, "classes": imported.classes, "view": imported.view, "added": list(imported.added)}
    return json.dumps({**fields, "notes": list(imported.notes)}, sort_keys=True)


def _of_task(release: Release, task: str) -> tuple[Imported | None, tuple[str, ...]]:
    """Return a file of one of the layouts that are not plain, if it is of a task, and the settings that it does not say.

    The latter take example values.
    """
    found = [get("layout", name)() for name in recognised(release)]
    fitting = [layout for layout in found if layout.task == task and not layout.plain]
    if len(fitting) != 1:
        return None, ()
    layout = fitting[0]
    known = layout.known(release)
    left_open = tuple(name for name in layout.asks if name not in known)
    return layout.imported(release, {**layout.offers, **layout.examples, **known}), left_open


def _refuse_other_tasks(release: Release, task: str) -> None:
    """Raise for a detector or a segmenter where a model of another task asks for weights."""
    for layout in (get("layout", name) for name in recognised(release)):
        if layout.task != task and not layout.plain and layout.task != "classification":
            raise CheckpointMismatch(
                f"checkpoint {release.name} (layout {layout.name}) is a model for {layout.task}, and the model here is for {task}; give"
                f" task={layout.task}, or a file of the encoder alone: tokenprune zoo convert FILE --to timm --out NEW.safetensors"
            )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return in words which settings of a ViT that no shape shows differ between a file and a run."""
    file, run = read_backbone(theirs), read_backbone(ours)
    pairs = [(name, getattr(file, name), getattr(run, name)) for name in _UNSEEN]
    return [f"the file was made with backbone.{name}={a}, the run has {b}" for name, a, b in pairs if a != b]


def _eps(imported: Imported, model: nn.Module) -> list[str]:
    """Return in words that a model that was not built here has another eps in its blocks, or another pooling, than the file."""
    vit, backbone = read_backbone(imported.settings["backbone"]), pruned_of(model).backbone
    eps = backbone.blocks[0].norm1.eps
    found = [] if vit.norm_eps in (None, eps) else [f"the file was made with eps {vit.norm_eps} in the blocks' norms, the model has {eps}"]
    pools = [
        (vit.pool, getattr(backbone, "global_pool", vit.pool)),
        (vit.pool_includes_prefix, getattr(backbone, "pool_include_prefix", False)),
    ]
    words = ("pool", "pool_includes_prefix")
    return found + [f"the file was made with {word}={a}, the model has {b}" for word, (a, b) in zip(words, pools, strict=True) if a != b]


def _name(spec: Any) -> str:
    return spec if isinstance(spec, str) else (spec or {}).get("name", "none")


def _of_selectors(key: str) -> bool:
    return key.startswith("selectors.") or ".selectors." in key


def _own(release: Release) -> Imported | None:
    """Return a file whose settings this project noted in its header, or in the row beside it; None for files of others."""
    if SETTINGS in release.meta:
        try:
            found = json.loads(release.meta[SETTINGS])
            return Imported(**{**found, "state": release.state, "added": tuple(found["added"]), "notes": tuple(found["notes"])})
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointMismatch(
                f"the settings in the header of {release.name} cannot be read ({error!r}); convert it again"
            ) from error
    row = None if release.folder is None else release.folder / _ROW
    if "key" not in release.meta or row is None or not row.is_file():
        return None
    config = json.loads(row.read_text(encoding="utf-8"))["config"]
    classes = json.loads(release.meta.get("class_names", "[]"))
    backbone = {**config["backbone"], "pretrained": None}  # the weights are in this file
    settings = {name: config[name] for name in _GROUPS if name in config} | {"backbone": backbone}
    return Imported(settings, release.state, len(classes))
