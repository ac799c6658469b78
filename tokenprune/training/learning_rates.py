"""Groups parameters by their learning rates, and sets how these change in the course of a run."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from tokenprune.training.settings import TrainingConfig

_UNDECAYED = ("pos_embed", "cls_token", "class_token", "level_embed", "position_embedding", "distillation_token", "register_tokens")
_ADDED = ("selectors.", "fusion.")  # modules that pruning adds: their weights are new, those of the others are trained
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_MAKES_TOKENS = re.compile(r"(?:^|\.)(?:embeddings|pre_layrnorm)\.")
_TAIL = 0.2  # share of the run in which linear_tail falls to 0
_AFTER_BLOCKS = (
    "norm",
    "fc_norm",
    "head",
    "head_dist",
    "attn_pool",
)  # of a timm model; others than these and the blocks make tokens


def lr_factor(cfg: "TrainingConfig", iteration: int) -> float:
    """Return the multiplier of every learning rate at a 0-based iteration: linear warm-up times the schedule."""
    warm = min(1.0, (iteration + 1) / cfg.warmup) if cfg.warmup else 1.0
    done = (iteration - cfg.warmup) / max(1, cfg.iterations - cfg.warmup)
    share = iteration / max(1, cfg.iterations)
    if cfg.schedule == "cosine":
        last = cfg.min_lr / cfg.lr if cfg.min_lr else 0.0
        return warm * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done)))))
    if cfg.schedule == "poly":
        return warm * (1 - min(1.0, max(0.0, done))) ** cfg.power
    if cfg.schedule == "steps":
        return warm * cfg.gamma ** sum(share >= step for step in cfg.steps)
    if cfg.schedule == "linear_tail":
        return warm * min(1.0, (1 - share) / _TAIL)
    return warm


def parameter_groups(model: nn.Module, cfg: "TrainingConfig") -> list[dict[str, Any]]:
    """Return AdamW groups, one for each combination of learning rate scale, frozen share of the run, and weight decay.

    Vectors, scalars and embeddings have no weight decay. Parameters of selectors and learned fusions learn `selector_lr_scale` times as
    fast. Those of a pruned encoder's backbone learn `backbone_lr_scale` times as fast, and not at all in the first `backbone_freeze` of the
    run. With a `layer_decay`, their scale falls towards the input (see `layer_scales`).
    """
    owners = [m for m in model.modules() if hasattr(m, "selectors") and hasattr(m, "backbone")]
    encoder = {id(p): scale for m in owners for p, scale in layer_scales(m.backbone, cfg.layer_decay or 1.0)}
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            pace = (cfg.selector_lr_scale, 0.0) if any(part in name for part in _ADDED) else (1.0, 0.0)
            pace = (cfg.backbone_lr_scale * encoder[id(p)], cfg.backbone_freeze) if id(p) in encoder else pace
            decays = p.ndim >= 2 and not any(word in name for word in _UNDECAYED)
            groups.setdefault((*pace, decays), []).append(p)
    decay = {True: cfg.weight_decay, False: 0.0}
    return [
        {"params": params, "lr": cfg.lr * scale, "base_lr": cfg.lr * scale, "freeze": freeze, "weight_decay": decay[decays]}
        for (scale, freeze, decays), params in groups.items()
    ]


def layer_scales(backbone: nn.Module, decay: float) -> list[tuple[nn.Parameter, float]]:
    """Return the parameters of a timm model of L blocks with their layer-wise learning rate scales (BEiT, MAE).

    The scale is 1 for modules behind the blocks (norms, head), decay for the last block, decay^L for the first block, and decay^(L+1) for
    the modules that make tokens.
    """
    if not hasattr(backbone, "blocks"):
        return _scales_of_transformers(backbone, decay)
    depth, found = len(backbone.blocks), []
    for name, p in backbone.named_parameters():
        first, *rest = name.split(".")
        below = 0 if first in _AFTER_BLOCKS else depth - int(rest[0]) if first == "blocks" else depth + 1
        found.append((p, decay**below))
    return found


def _scales_of_transformers(backbone: nn.Module, decay: float) -> list[tuple[nn.Parameter, float]]:
    """Return the same for a model of transformers: its blocks are called `layer.N` or `layers.N`, and what makes tokens `embeddings`."""
    named = [(name, p, _LAYER.search(name)) for name, p in backbone.named_parameters()]
    depth = 1 + max((int(layer[1]) for _, _, layer in named if layer is not None), default=-1)
    below = [depth - int(layer[1]) if layer is not None else depth + 1 if _MAKES_TOKENS.search(name) else 0 for name, _, layer in named]
    return [(p, decay**steps) for (_, p, _), steps in zip(named, below, strict=True)]


def learning_rate(group: Mapping[str, Any], cfg: "TrainingConfig", iteration: int) -> float:
    """Return the learning rate of a group at a 0-based iteration. It is 0 while the group is frozen, and AdamW's decay follows it."""
    frozen = iteration < group.get("freeze", 0.0) * cfg.iterations  # a checkpoint from before freezing existed has no such entry
    return 0.0 if frozen else group["base_lr"] * lr_factor(cfg, iteration)
