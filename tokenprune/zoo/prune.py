"""`tokenprune.prune`: the engine's `prune`, which takes a file of weights as well."""

from pathlib import Path
from typing import Any

from torch import nn

from tokenprune.backbones.hf import load_folder
from tokenprune.backbones.weights import load_vit
from tokenprune.engine.as_transformers import PrunedTransformer
from tokenprune.engine.model import PrunedViT, Spec
from tokenprune.engine.prune import prune as pruned_without_file
from tokenprune.utils import console
from tokenprune.utils.checkpoints import load_weights
from tokenprune.zoo.load import load_into


def prune(
    model: nn.Module,
    selector: Spec | None = None,
    treatment: Spec | None = None,
    schedule: Spec | None = None,
    *,
    init: Path | str | None = None,
    **options: Any,
) -> PrunedViT:
    """Return `model` with token reduction; the model's own parameters, keys and code stay as they are.

    Args:
        model: a plain ViT, DeiT, EVA, DINOv3 or NaFlex model of timm, or a ViT, DeiT, DINOv2, CLIP or SigLIP model of transformers.
        selector: name, or mapping with `name` and options; None runs the dense model through the same engine.
        treatment: the same; None takes what the selector's paper uses, and options without a name change that.
        schedule: the same, for example `{"keep_rate": 0.5}`.
        init: file of weights: one that the authors of the method published, or of the plain model; None leaves the model's own. For a
            model of transformers: a folder of `save_pretrained`, or a file of all of the pruned model's weights, such as a row's.
        options: cls, execution, losses, positions and classes, see `tokenprune.engine.prune.prune`.

    Raises:
        CheckpointMismatch: `init` does not fit; the message names each key.
        UnsupportedBackbone, UnknownPlugin, InvalidConfig, InvalidSchedule, IncompatiblePairing: see `tokenprune.engine.prune.prune`.
    """
    pruned = pruned_without_file(model, selector, treatment, schedule, **options)
    if init is not None and isinstance(pruned, PrunedTransformer):
        _load_transformer(pruned, Path(init))
    elif init is not None:
        groups = {"task": {"name": "classification"}, "selector": selector, "treatment": treatment, "schedule": schedule}
        published = load_into(pruned, init, groups)
        for note in load_vit(pruned, init) if published is None else published:
            console.warn(f"{Path(init).name}: {note}")
    return pruned


def _load_transformer(pruned: PrunedTransformer, init: Path) -> None:
    """Load a folder of transformers into the backbone, or a file of all weights into the pruned model."""
    if not init.is_dir():
        load_weights(pruned, init)
        return
    for note in load_folder(pruned.backbone, init):
        console.warn(f"{init.name}: {note}")
