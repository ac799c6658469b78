"""Builds plain timm ViTs from a configuration. Nothing is ever fetched from the network."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tokenprune.backbones.position_codes import RESAMPLINGS, resize_plainly
from tokenprune.backbones.vit_adapter import AdapterConfig, adapter_problems
from tokenprune.backbones.weights import load_backbone
from tokenprune.engine.blocks import adapt
from tokenprune.engine.blocks.windows import Windows, window_problems
from tokenprune.errors import InvalidConfig, hint
from tokenprune.utils.settings import read_settings

SIZES = ("tiny", "small", "base", "large", "huge")
_INIT_SCALE = 0.3  # sin-cos codes have an rms of .7, which at full size would hide the patches of a narrow model at the start


@dataclass(frozen=True)
class VitConfig:
    """Describes a ViT by its timm name (`model`) or by its sizes: pixels for sizes, channels for widths.

    Args:
        name: Name of the configuration group, for people.
        size: One of `SIZES`: the rows of a paper that the model stands for.
        model: Name of a timm model; None builds a VisionTransformer of the sizes below.
        img_size: Side of the images in pixels.
        patch_size: Side of a patch in pixels.
        embed_dim: Channels C.
        depth: Number of blocks L.
        num_heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLPs over C.
        class_token: Whether there is a class token. For a `model`, False builds an Eva without one.
        registers: Number of tokens behind the class token that no head reads, in a model built from sizes. DeiT's distillation token is
            one where its head is not used (Segmenter).
        drop_path: Stochastic depth of the last block; it rises linearly from 0.
        pos_init: `normal` (timm's), or `sincos` for 2-D sin-cos codes as a start, which are trained on.
        pretrained: A local file of weights, see `weights`.
        adapter: Settings of a ViT-Adapter around the model, which then has no final norm; None for the plain ViT.
        pool: Input of the classification head: the class token (`token`) or the mean of the patch tokens (`avg`, with timm's norm behind
            the mean). None takes the class token if there is one, and for a `model` timm's own choice.
        pool_includes_prefix: Whether that mean counts the class token, too, as Cropr's does; None does not (timm). A pruned Eva follows it;
            timm's own forward of an Eva does not.
        repatch: Whether a `model` is built with `patch_size` in place of its own. Files of weights are then resampled.
        windows: Windows inside which the blocks attend, for square images of img_size or less, which are padded to it. Such a model has no
            final norm unless it has a head. None: every block sees all tokens.
        norm_eps: eps of the blocks' LayerNorms; None takes timm's for the model (1e-6 for a plain ViT).
        final_norm_eps: The same of the norm behind the last block or the pooling.
        pos_resample: How position codes are resized to the grid of an image, and to the model's from a file: `antialias` (timm's way), or
            `bicubic`, plain bicubic interpolation, as the code of DeiT, MAE, ViT-Adapter and SViT has it. The same must be used in training
            and at test.
        pretrained_grid: Rows and columns of patches that the position codes of a file of weights are for (`pretrained`, init=FILE); needed
            where they are no square and the file does not say. None finds out.
    """

    name: str = ""
    size: str = ""
    model: str | None = None
    img_size: int = 224
    patch_size: int = 16
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    class_token: bool = True
    registers: int = 0
    drop_path: float = 0.0
    pos_init: str = "normal"
    pretrained: str | None = None
    adapter: AdapterConfig | None = None
    pool: str | None = None
    pool_includes_prefix: bool | None = None
    repatch: bool = False
    windows: Windows | None = None
    pretrained_grid: tuple[int, int] | None = None
    norm_eps: float | None = None
    final_norm_eps: float | None = None
    pos_resample: str = "antialias"


def read_backbone(cfg: VitConfig | Mapping[str, Any]) -> VitConfig:
    """Read the `backbone` group of the configuration.

    Raises:
        InvalidConfig: A key or value is wrong.
    """
    return cfg if isinstance(cfg, VitConfig) else read_settings(VitConfig, cfg, "backbone")


def build_vit(cfg: VitConfig | Mapping[str, Any], num_classes: int = 0) -> nn.Module:
    """Build a timm VisionTransformer, or by name an Eva, that takes any image size its patches divide (`dynamic_img_size`).

    Args:
        cfg: The `backbone` group of the configuration.
        num_classes: Outputs of the classification head; 0 for no head.

    Raises:
        InvalidConfig: A size does not fit, or the timm model is unknown.
        UnsupportedBackbone: The model has no adapter.
        CheckpointMismatch: `pretrained` is of another model.
    """
    cfg = read_backbone(cfg)
    _check(cfg)
    vit = _named(cfg, num_classes) if cfg.model else _sized(cfg, num_classes)
    if cfg.pool_includes_prefix is not None and num_classes:  # without a head nothing is pooled
        _pool_prefix(vit, cfg.pool_includes_prefix)
    if cfg.adapter is not None:
        vit.norm = nn.Identity()  # the adapter normalises its maps itself
    if cfg.windows is not None:
        _set_windows(vit, cfg.windows, num_classes)
    _set_eps(vit, cfg)
    if cfg.pos_resample == "bicubic":
        resize_plainly(vit)
    if cfg.pos_init == "sincos":
        _sincos_start(vit)
    if cfg.pretrained_grid is not None:
        vit.pretrained_grid = cfg.pretrained_grid
    if cfg.pretrained:
        load_backbone(vit, cfg.pretrained)
    return vit


def depth(cfg: VitConfig | Mapping[str, Any]) -> int:
    """Return L, the number of blocks. A timm model by name has its own number, whatever `depth` says.

    Raises:
        InvalidConfig: See `build_vit`.
        UnsupportedBackbone: See `build_vit`.
    """
    cfg = read_backbone(cfg)
    return _blocks_of(replace(cfg, pretrained=None)) if cfg.model else cfg.depth


@lru_cache(maxsize=32)
def _blocks_of(cfg: VitConfig) -> int:
    with torch.device("meta"):
        return len(build_vit(cfg).blocks)


def _check(cfg: VitConfig) -> None:
    problems = []
    if cfg.img_size % cfg.patch_size:
        problems.append(f"backbone.patch_size {cfg.patch_size} does not divide backbone.img_size {cfg.img_size}")
    if cfg.embed_dim % cfg.num_heads:
        problems.append(f"backbone.num_heads {cfg.num_heads} does not divide backbone.embed_dim {cfg.embed_dim}")
    if cfg.pos_init not in ("normal", "sincos"):
        problems.append(f"backbone.pos_init is {cfg.pos_init!r}, allowed are normal, sincos")
    if cfg.model and not timm.is_model(cfg.model):
        problems.append(f"backbone.model {cfg.model!r} is not a timm model; `timm.list_models('*vit*')` lists them")
    if cfg.pool not in (None, "token", "avg"):
        problems.append(f"backbone.pool is {cfg.pool!r}, allowed are token, avg and null")
    if cfg.pool == "token" and not cfg.class_token:
        problems.append("backbone.pool is 'token', and backbone.class_token is false: there is none to read; allowed there: avg and null")
    if cfg.pool_includes_prefix and (cfg.pool == "token" or (cfg.pool is None and cfg.class_token and not cfg.model)):
        problems.append("backbone.pool_includes_prefix is true, and the head reads the class token alone; give backbone.pool=avg with it")
    if cfg.windows is not None and cfg.adapter is not None:
        problems.append("backbone.windows and backbone.adapter are both set; allowed: one of them")
    if cfg.pretrained_grid is not None and min(cfg.pretrained_grid) < 1:
        problems.append(f"backbone.pretrained_grid is {list(cfg.pretrained_grid)}; allowed: [rows,columns], 1 and more")
    for name in ("norm_eps", "final_norm_eps"):
        if (eps := getattr(cfg, name)) is not None and not eps > 0:
            problems.append(f"backbone.{name} is {eps}; allowed: above 0, and null for timm's")
    if cfg.pos_resample not in RESAMPLINGS:
        problems.append(f"backbone.pos_resample is {cfg.pos_resample!r}, allowed are {', '.join(RESAMPLINGS)}")
    if cfg.registers < 0 or (cfg.registers and (cfg.model or not cfg.class_token)):
        problems.append(f"backbone.registers is {cfg.registers}; allowed: 0, and above with sizes (backbone.model=null) and a class token")
    if cfg.size not in ("", *SIZES):
        problems.append(f"backbone.size is {cfg.size!r}, allowed are {', '.join(SIZES)} and ''")
    if cfg.adapter is not None and not cfg.model:  # a timm model's sizes are only known once it is built
        problems += [f"backbone: {p}" for p in adapter_problems(cfg.adapter, cfg.patch_size, cfg.embed_dim, cfg.depth)]
    if problems:
        raise InvalidConfig(problems)


def timm_classifier(name: str, classes: int | None, side: int | None) -> nn.Module:
    """Return a model of timm with random weights, for commands that take its name and `--size`.

    Args:
        name: timm's name of the model.
        classes: Outputs of its head; None for the model's own.
        side: Side of its images in pixels; None for the model's own.

    Raises:
        InvalidConfig: timm has no such model, or cannot make it with this head and size.
    """
    if not timm.is_model(name):
        near = hint(name, timm.list_models("*vit*") + timm.list_models("*deit*"))
        raise InvalidConfig(f"timm has no model {name!r}.{near} timm.list_models('*vit*') lists models")
    given: dict[str, Any] = {"num_classes": classes, "img_size": side}
    try:
        return timm.create_model(name, **{key: value for key, value in given.items() if value is not None})
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InvalidConfig(f"timm cannot make {name} with {classes} classes and side {side}: {error}; leave --size out") from error


def _named(cfg: VitConfig, num_classes: int) -> nn.Module:
    """Return a model of timm: a VisionTransformer or an Eva. Any model that is no ViT with one patch embedding is refused by name."""
    options = {"img_size": cfg.img_size, "num_classes": num_classes, "dynamic_img_size": True, "drop_path_rate": cfg.drop_path}
    pooling = {} if cfg.pool is None else {"global_pool": cfg.pool}
    options.update({"patch_size": cfg.patch_size} if cfg.repatch else {})
    options.update({} if cfg.class_token else {"class_token": False})
    try:
        vit = timm.create_model(cfg.model, pretrained=False, **options, **pooling)
    except TypeError as error:
        adapt(timm.create_model(cfg.model, pretrained=False))  # for a model without adapter this raises the reason
        raise InvalidConfig(f"backbone.model {cfg.model!r} cannot be built for any image size: {error}; allowed: ViT, DeiT, EVA") from error
    patch = adapt(vit).patch
    if patch != cfg.patch_size:
        raise InvalidConfig(
            f"backbone.patch_size is {cfg.patch_size}, but {cfg.model} has {patch} px: set backbone.patch_size={patch}, or"
            " backbone.repatch=true to build it with another"
        )
    return vit


def _sized(cfg: VitConfig, num_classes: int) -> VisionTransformer:
    names = {f.name for f in fields(cfg)} & {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token"}
    sizes = {name: getattr(cfg, name) for name in names}
    # Without a class token timm would move the norm behind the pooling, but a dense map needs it on every token.
    pooling = {"global_pool": "token"} if cfg.class_token else {"global_pool": "avg", "fc_norm": False}
    if cfg.pool is not None and num_classes:  # without a head nothing is pooled
        pooling = {"global_pool": cfg.pool}
    tokens = {"reg_tokens": cfg.registers, "num_classes": num_classes}
    return VisionTransformer(**sizes, **pooling, **tokens, dynamic_img_size=True, drop_path_rate=cfg.drop_path)


def _pool_prefix(vit: nn.Module, included: bool) -> None:
    if included and vit.global_pool != "avg" and vit.num_classes:  # without a head nothing is pooled
        raise InvalidConfig(
            f"backbone.pool_includes_prefix is true, and {type(vit).__name__} pools by {vit.global_pool!r}; give backbone.pool=avg with it"
        )
    vit.pool_include_prefix = included  # timm's Eva ignores this setting; `Family.classify` applies it


def _set_windows(vit: nn.Module, windows: Windows, num_classes: int) -> None:
    problems = window_problems(windows, vit.patch_embed.grid_size, len(vit.blocks), vit.num_prefix_tokens)
    if problems:
        raise InvalidConfig(problems)
    vit.windows = windows
    if not num_classes:
        vit.norm, vit.fc_norm = nn.Identity(), nn.Identity()  # ViTDet's maps are not normalised


def _set_eps(vit: nn.Module, cfg: VitConfig) -> None:
    for eps, parts in ((cfg.norm_eps, vit.blocks), (cfg.final_norm_eps, nn.ModuleList([vit.norm, vit.fc_norm]))):
        for layer in parts.modules() if eps is not None else ():
            if isinstance(layer, nn.LayerNorm):
                layer.eps = eps


def _sincos_start(vit: nn.Module) -> None:
    """Start the position embedding from fixed 2-D codes, so that neighbours are alike from the first iteration on."""
    if vit.pos_embed is None:
        raise InvalidConfig("backbone.pos_init is 'sincos', but the model has no learned position codes to start from it: use normal")
    codes = build_sincos2d_pos_embed(list(vit.patch_embed.grid_size), dim=vit.embed_dim)
    with torch.no_grad():
        vit.pos_embed[:, -len(codes) :] = _INIT_SCALE * codes
