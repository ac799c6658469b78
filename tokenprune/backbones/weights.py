"""Loads weights of files in a model's own keys: this project's files, timm's, and those that MAE, EVA-02, DeiT, DINO and others publish.

timm's `checkpoint_filter_fn` does the renaming and the resampling of patch sizes. This module does the parts that timm does not know: this
project's prefixes, decoders and heads of pre-training, and position codes with a number of prefix tokens that differs from the model's.
"""

import math
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tokenprune.backbones.position_codes import PlainCodes, resize_codes
from tokenprune.engine.model import PrunedViT
from tokenprune.errors import CheckpointMismatch
from tokenprune.utils.checkpoints import GRID_NOTE, load_weights, read_metadata
from tokenprune.utils.console import say_once

State = dict[str, Tensor]
Grid = tuple[int, int]
_HEADS = ("head.", "head_dist.")
_NORMS = ("norm.", "fc_norm.")
_ANCHOR = "patch_embed.proj.weight"  # a key that every ViT has
_AVERAGED = ("teacher", "ema", "target_encoder")  # in the prefix of an encoder that is a moving average of another


def load_backbone(module: nn.Module, path: Path | str, grid: Grid | None = None) -> dict[str, str]:
    """Load encoder weights into a ViT, an Eva or a PrunedViT from a file that timm, a paper or this project wrote.

    The file's head, the norm behind its pooling and its selectors are left out; the module's own stay as they are. The file's final norm is
    left out, too, if the module has none (with an adapter, or behind the pooling). Position codes are resampled to the module's grid, and
    patches to its size.

    Args:
        module: The module.
        path: The file.
        grid: Rows and columns of patches that the file's position codes are for. None takes the module's attribute `pretrained_grid`, else
            the file's own note on it, else the only grid that so many codes fit.

    Returns:
        The file's metadata.

    Raises:
        CheckpointMismatch: Any other key is missing, unexpected or of another shape, or the grid of the file is not known.
    """
    vit = _plain(module)
    size = _file_grid(vit, path, grid)
    ours = (*_HEADS, "fc_norm.")
    left_out = (*ours, "norm.") if isinstance(vit.norm, nn.Identity) else ours
    return load_weights(path, vit, allow_missing=ours, convert=lambda state: _encoder_state(state, vit, left_out, size))


def load_vit(module: nn.Module, path: Path | str, grid: Grid | None = None) -> list[str]:
    """Load weights as `load_backbone` does, and the head with them if the file has one of the module's shape.

    Args:
        module: The module.
        path: The file.
        grid: See `load_backbone`.

    Returns:
        Notes: why the head stays random, and a final norm that moved, or stays new because the file has none (that of a detector with
        an adapter). There are none for a module without a head.

    Raises:
        CheckpointMismatch: See `load_backbone`; a file with one of the two final norms must have all that the module has.
    """
    vit = _plain(module)
    size = _file_grid(vit, path, grid)
    own, notes = vit.state_dict(), []
    wanted = {k: v.shape for k, v in own.items() if k.startswith(_HEADS)}

    left_out = (
        *(() if "head_dist.weight" in own else ("head_dist.",)),
        *(() if "fc_norm.weight" in own else ("fc_norm.",)),
        *(() if "fc_norm.weight" in own or "norm.weight" in own else ("norm.",)),
    )

    def convert(state: State) -> State:
        prefix, note = encoder_prefix(state)
        notes.extend([note] if note else [])
        behind = {k.removeprefix(f"{prefix}fc_"): v for k, v in state.items() if k.startswith(f"{prefix}fc_norm.")}
        state = _encoder_state(state, vit, left_out, size)
        heads = {k: state.pop(k) for k in list(state) if k.startswith(_HEADS)}
        if heads and {k: v.shape for k, v in heads.items()} == wanted:
            state |= heads
        elif wanted:
            has = f"of {len(heads['head.weight'])} outputs" if "head.weight" in heads else "missing"
            notes.append(f"the head starts from random weights: the file's is {has}, the model's has {len(own['head.weight'])}")
        state, note = _with_norm(state, behind, {k: v for k, v in own.items() if k.startswith(_NORMS)}, bool(wanted))
        notes.extend([note] if note else [])
        return state

    load_weights(path, vit, allow_missing=_HEADS, convert=convert)
    return notes


def _with_norm(state: State, behind: State, own: State, answers: bool) -> tuple[State, str]:
    """Return a file's state with the final norm where the model has it, and a note where that is not as in the file.

    Args:
        state: The state, in the model's keys.
        behind: The file's norm behind its pooling, under the name of one before it; empty if it has none.
        own: The model's final norms.
        answers: Whether the model has a head; only then its norm may start anew, where the file has none.
    """
    if answers and own and not behind and not any(k.startswith(_NORMS) for k in state):
        return state | own, "the final norm starts anew: the file has none"
    if "fc_norm.weight" in own and "fc_norm.weight" not in state and "norm.weight" not in own:
        moved = {f"fc_{k}" if k.startswith("norm.") else k: v for k, v in state.items()}
        return moved, "the file's final norm stands behind the pooling"
    if behind and "norm.weight" in own and "norm.weight" not in state:
        return state | behind, "the file's final norm stood behind the pooling"
    return state, ""


def load_timm(model: nn.Module, path: Path | str) -> dict[str, str]:
    """Load weights into a timm model of any kind, head included, through timm's own code for files of that kind.

    Returns:
        The file's metadata.

    Raises:
        CheckpointMismatch: A key is missing, unexpected or of another shape; the message names each.
    """
    return load_weights(path, model, convert=lambda state: _renamed(state, model))


def _plain(module: nn.Module) -> nn.Module:
    return module.backbone if isinstance(module, PrunedViT) else module


def _file_grid(vit: nn.Module, path: Path | str, grid: Grid | None) -> Grid | None:
    """Return the grid of a file's position codes as the caller, the model or the file's metadata give it."""
    if grid is None:
        grid = getattr(vit, "pretrained_grid", None)
    noted = read_metadata(path).get(GRID_NOTE) if grid is None and Path(path).is_file() else None
    return tuple(int(side) for side in noted.split("x")) if noted else grid


def _encoder_state(state: State, vit: VisionTransformer | Eva, leave_out: tuple[str, ...], size: Grid | None) -> State:
    """Return a file's state in a ViT's own keys, with resampled position codes.

    Prefixes, entries that only pre-training needs, and tokens that the model lacks are left out.
    """
    prefix, note = encoder_prefix(state)
    if note:
        say_once(note)
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if isinstance(vit, Eva) or any(k.startswith("decoder_") for k in state):  # in files of other ViTs, timm tells DINOv2 by its mask token
        leave_out += ("mask_token", "lm_head.", "decoder_")
    tokens = prefix_counts(state)
    leave_out += tuple(name for name in ("dist_token", "cls_token") if getattr(vit, name, None) is None)
    state = {k: v for k, v in state.items() if not k.startswith(leave_out)}
    codes = None if "register_tokens" in state else state.pop("pos_embed", None)  # timm adds DINOv2's first code to its class token
    state = _renamed(state, vit)
    if codes is not None:
        state["pos_embed"] = codes if vit.pos_embed is None else resampled(codes, vit, tokens, size)
    return {k: v for k, v in state.items() if not k.startswith(leave_out)}


def encoder_prefix(state: State) -> tuple[str, str]:
    """Return the beginning of the keys of a file's encoder, and a note if the file holds several.

    Of a student and its teacher, which is an average of it, the teacher is taken, as DINO and iBOT are evaluated.

    Raises:
        CheckpointMismatch: The file holds several encoders, and not one of them is a teacher or an average.
    """
    found = [key.removesuffix(_ANCHOR) for key in state if key.endswith(_ANCHOR)]
    if len(found) < 2:
        return (found[0] if found else ""), ""
    averaged = [prefix for prefix in found if any(word in prefix for word in _AVERAGED)]
    if len(averaged) == 1:
        return averaged[0], f"the file holds {len(found)} encoders ({', '.join(found)}); {averaged[0]} is taken"
    raise CheckpointMismatch(
        f"the file holds {len(found)} encoders, whose keys begin with {', '.join(map(repr, found))}; allowed: one, or one teacher or"
        f" average ({', '.join(_AVERAGED)}) among them: write a file with one of them alone"
    )


def _renamed(state: State, model: nn.Module) -> State:
    """Return a file's state in the form of timm's filter for models of that kind, or unchanged if timm has no filter."""
    kind = next(k for k in type(model).__mro__ if not issubclass(k, PlainCodes))  # timm's own class
    change: Callable[..., State] | None = getattr(sys.modules[kind.__module__], "checkpoint_filter_fn", None)
    if change is None:
        return state
    layer_scale = {"adapt_layer_scale": True} if isinstance(model, VisionTransformer) else {}  # for DeiT III's own files
    try:
        return change(dict(state), model, **layer_scale)
    except (RuntimeError, LookupError, AttributeError, ValueError) as error:
        raise CheckpointMismatch(
            f"the file is not of a {type(model).__name__} of this size: timm cannot bring it into that form ({error}); take the model that"
            " it was written with"
        ) from error


def resampled(codes: Tensor, vit: VisionTransformer | Eva, tokens: Collection[int] = (), size: Grid | None = None) -> Tensor:
    """Return position codes (1,P'+N',C) of a file on the model's grid, with codes for as many prefix tokens as the model has.

    Codes that cannot be resampled, or need not be, are returned unchanged.

    Args:
        codes: Position codes of the file, prefix tokens first, then the file's grid in raster order.
        vit: The model.
        tokens: How many prefix tokens of the file may have a code. The model's own number is always tried.
        size: Grid (H',W') of the file; None finds it from the number of codes.

    Raises:
        CheckpointMismatch: The grid of the file is not known, or is not of so many codes.
    """
    if codes.shape[-1] != vit.pos_embed.shape[-1]:
        return codes
    own = 0 if vit.no_embed_class else vit.num_prefix_tokens
    extra, size = _layout(codes.shape[1], (own, *sorted(tokens)), vit, size)
    if extra < own or (codes.shape == vit.pos_embed.shape and size == vit.patch_embed.grid_size):
        return codes
    grid = resize_codes(codes[:, extra:], size, vit.patch_embed.grid_size, plain=isinstance(vit, PlainCodes))
    return torch.cat([codes[:, :own], grid], 1)


def prefix_counts(state: State) -> set[int]:
    """Return how many prefix tokens may have a position code in a file: none, or all (class, distillation and register tokens)."""
    return {0, sum(state[name].shape[1] for name in ("cls_token", "dist_token", "reg_token") if name in state and state[name].dim() == 3)}


def _layout(count: int, tokens: tuple[int, ...], vit: VisionTransformer | Eva, size: Grid | None) -> tuple[int, Grid]:
    """Return how many of a file's `count` codes belong to prefix tokens, and the grid of the others."""
    own = tuple(vit.patch_embed.grid_size)
    found: set[tuple[int, Grid]] = set()
    for tries in (tokens[:1], tokens, (1, 2)):  # the model's own number first; last, codes of tokens that the file has lost
        for extra in tries if not found else ():
            grids = _grids(count - extra, own, vit) if size is None else {size}
            found |= {(extra, (rows, columns)) for rows, columns in grids if rows * columns == count - extra}
    if len(found) == 1:
        return found.pop()
    numbers = " or ".join(str(count - extra) for extra in sorted(set(tokens)) if extra < count)
    said = f"grid {size[0]} x {size[1]} is not of so many" if size is not None else "the file does not say on which grid of patches"
    maybe = f" (it may be {' or '.join(f'{h} x {w}' for _, (h, w) in sorted(found))})" if found else ""
    raise CheckpointMismatch(
        f"pos_embed has {count} position codes, {numbers} without prefix tokens, and {said}{maybe}; the model's grid is {own[0]} x"
        f" {own[1]}. Give the file's own: backbone.pretrained_grid=[ROWS,COLUMNS], or grid=(ROWS, COLUMNS) of load_vit and load_backbone"
    )


def _grids(count: int, own: Grid, vit: VisionTransformer | Eva) -> set[Grid]:
    """Return the grids that a file of `count` positions may have: a square, the model's, and the one of timm's weights for it."""
    if count < 1:
        return set()
    side, published = math.isqrt(count), getattr(vit, "pretrained_cfg", None) or {}
    pixels, patch = published.get("input_size", (3, 0, 0))[-2:], vit.patch_embed.feat_ratio(as_scalar=False)
    known = {(side, side), own, (pixels[0] // patch[0], pixels[1] // patch[1])}
    return {grid for grid in known if grid[0] * grid[1] == count}
