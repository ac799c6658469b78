"""`prune`: a model of timm or transformers in, the same model with token reduction out."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tokenprune.engine.arguments import check_among, check_losses, check_model, check_numbers, check_spec, completed, refuse_unknown
from tokenprune.engine.as_transformers import PrunedTransformer
from tokenprune.engine.blocks import of_transformers
from tokenprune.engine.blocks.class_token import SOURCES
from tokenprune.engine.legality import EXECUTIONS, refuse
from tokenprune.engine.legality_windows import refuse_counts, refuse_windowed
from tokenprune.engine.model import PrunedViT, Spec
from tokenprune.engine.schedule import Layout
from tokenprune.registry import build, get, name_in


def prune(
    model: nn.Module,
    selector: Spec | None = None,
    treatment: Spec | None = None,
    schedule: Spec | None = None,
    *,
    cls: str = "learned",
    execution: str = "auto",
    losses: Mapping[str, Mapping[str, Any]] | None = None,
    positions: int | None = None,
    classes: int | None = None,
    **unknown: Any,
) -> PrunedViT:
    """Return `model` with token reduction; the model's own parameters, keys and code stay as they are.

    Args:
        model: a plain ViT, DeiT, EVA, DINOv3 or NaFlex model of timm, or a ViT, DeiT, DINOv2, CLIP or SigLIP model of transformers.
        selector: name, or mapping with `name` and options; None runs the dense model through the same engine.
        treatment, schedule: the same; None takes what the selector's paper uses. Options without a name, such as
            `{"keep_rate": 0.5}`, or with the name of the paper's, change that.
        cls: the class token that attention-based selectors read: `learned` the model's own, `random` a new one (SViT on dense
            tasks), `mean` the mean of the patch tokens.
        execution: auto, masked, gathered or packed.
        losses: {name: options} of the selectors' losses, e.g. {"ratio": {"weight": 4}}.
        positions: N of the images to come, which the schedule must fit; None takes the model's own grid. Other sizes run too.
        classes: what auxiliary heads of a selector learn to tell (labels of patches, objects in an image); None takes the model's own.
        unknown: none; an argument that does not exist is refused with the place of its value.

    Raises:
        UnsupportedBackbone, UnknownPlugin, InvalidConfig, InvalidSchedule, IncompatiblePairing.
    """
    refuse_unknown(unknown, selector)
    check_model(model)
    check_numbers(positions, classes)
    check_losses(losses or {})
    check_among("cls", cls, SOURCES)
    check_among("execution", execution, EXECUTIONS)
    windows = getattr(model, "windows", None)
    made = PrunedTransformer if of_transformers(model) else PrunedViT
    if selector is None:
        refuse_windowed(windows, None, build("treatment", "none"), {}, execution)
        return made(model, None, build("treatment", "none"), build("schedule", "none"), cls, execution, {})
    check_spec("selector", selector)
    kind = get("selector", name_in("selector", selector))
    after = build("treatment", completed(treatment, kind.published["treatment"], "treatment"))
    refuse(kind, after, execution)
    refuse_windowed(windows, kind, after, {} if isinstance(selector, str) else selector, execution)
    plan = build("schedule", completed(schedule, kind.published["schedule"], "schedule"))
    pruned = made(model, selector, after, plan, cls, execution, losses or {}, positions, classes)
    refuse_counts(windows, kind, after, plan, Layout(pruned.depth, positions or pruned.family.own_positions))
    return pruned
