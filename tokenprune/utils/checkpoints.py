"""Writes weights as safetensors, atomically, and reads them without ever running code from a file; mismatches are listed in full."""

import pickle
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenprune.errors import CheckpointMismatch
from tokenprune.utils import console
from tokenprune.utils.files import atomic_write

GRID_NOTE = "grid"  # metadata: rows x columns of the position codes, where they are no square
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")  # a name in torch's message on an object that it does not read
_REMEDY = "use the backbone and task settings that it was written with"
AVERAGE = "model_ema"
_NESTED = ("model", "state_dict", "model_state", "module")


def save_weights(
    path: Path | str, weights: nn.Module | Mapping[str, Tensor], dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a module's state (or a state dict) as safetensors, floating point tensors as `dtype` if it is given.

    Args:
        path: The file.
        weights: The module or its state.
        dtype: Storage type such as torch.float16 (half the size); None keeps each tensor's own.
        metadata: Short strings kept in the header: the kind of the weights and their origin. The grid of position codes that is no square
            is added.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    # Clones, because safetensors refuses tensors that share storage (tied weights).
    ready = {k: _stored(v, dtype).detach().cpu().contiguous().clone() for k, v in state.items()}
    header = {"format": "pt", **_grid_note(weights), **{k: str(v) for k, v in (metadata or {}).items()}}
    atomic_write(path, lambda part: save_file(ready, part, metadata=header))


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Return every tensor of a .safetensors file, or of a .pt / .pth / .bin file read with weights_only=True.

    `model_ema` is taken where the file says `ema_best`, as TokenReduction's do. Else a mapping under "model", "state_dict", "model_state"
    or "module" is unwrapped; several others ("student", "teacher") are joined, each key with the name of its mapping and a dot before it.
    Other content of a training run (optimizer, epoch, its arguments as argparse's Namespace) is ignored.

    Raises:
        CheckpointMismatch: The file is missing or damaged, or reading it would need code (none is run).
    """
    path = Path(path)
    content = read_plain(path)
    if isinstance(content, Mapping) and content.get("ema_best") and isinstance(content.get(AVERAGE), Mapping):
        content = content[AVERAGE]  # the file itself says that its average is the better one
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            averaged = [str(other) for other, part in content.items() if "ema" in str(other).split("_") and isinstance(part, Mapping)]
            if averaged:
                console.say_once(f"{path.name} holds {name!r} and an average of it, {averaged[0]!r}; {name!r} is taken")
            content = content[name]
    if not isinstance(content, Mapping):
        raise CheckpointMismatch(f"checkpoint {path.name} holds a {type(content).__name__}, expected a mapping of names to tensors")
    parts = {name: part for name, part in content.items() if isinstance(part, Mapping)}
    return _tensors(content) or {f"{name}.{k}": v for name, part in parts.items() for k, v in _tensors(part).items()}


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}


def read_plain(path: Path | str) -> Any:
    """Return the content of a file of weights or of a training run, as it stands: tensors and plain values; no code is run from it.

    Raises:
        CheckpointMismatch: The file is missing or damaged, or reading it would need code.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointMismatch(f"checkpoint {path} is a folder; allowed: the file of weights in it")
    if not path.is_file():
        raise CheckpointMismatch(f"checkpoint {path.name}: there is no file {path}; check the path (`make weights` makes the demo's)")
    try:
        with _plain_values():
            if is_safetensors(path):
                return load_file(path)
            with path.open("rb") as file:  # torch would judge a path by its ending
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _REFUSED.search(str(error))  # torch's own text would advise loading it unsafely
        held = f" (it holds {named.group(1)})" if named else ""
        raise CheckpointMismatch(
            f"checkpoint {path.name} is no checkpoint, or holds more than tensors and plain values{held}, and no code is run from one;"
            " convert it in a place you trust: torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # the readers of both formats let any exception through
        raise _damaged(path, error) from error


def is_safetensors(path: Path) -> bool:
    """Tell by its first bytes whether a file is safetensors, whatever its ending says: the length of a header, and the header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_metadata(path: Path | str) -> dict[str, str]:
    """Return the header strings that `save_weights` stored; {} for other formats.

    Raises:
        CheckpointMismatch: The file is damaged.
    """
    path = Path(path)
    if path.is_file() and not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def load_weights(
    path: Path | str,
    module: nn.Module,
    prefix: str = "",
    drop: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> dict[str, str]:
    """Copy a file's weights into `module` (in the module's own dtype) and return the file's metadata.

    Args:
        path: The file.
        module: The module.
        prefix: Take only the file's keys that start with it, and strip it.
        drop: Keys of the file that are ignored; "selectors." matches at the start of a key and after any dot.
        allow_missing: Keys of the module that the file may lack, matched in the same way.
        convert: A last change of the file's state, for example a resampled position embedding.

    Raises:
        CheckpointMismatch: Keys are missing, unexpected or wrongly shaped; the message names ALL of them, and the module is untouched.
    """
    state = {k[len(prefix) :]: v for k, v in read_weights(path).items() if k.startswith(prefix)}
    state = {k: v for k, v in state.items() if not _matches(k, drop)}
    copy_state(convert(state) if convert else state, module, Path(path).name, allow_missing)
    return read_metadata(path)


def copy_state(
    state: Mapping[str, Tensor], module: nn.Module, name: str, allow_missing: tuple[str, ...] = (), remedy: str = _REMEDY
) -> None:
    """Copy tensors into a module, in the module's own dtype.

    Args:
        state: {key of the module: tensor}.
        module: The module.
        name: Name of the file that the tensors are from, for messages.
        allow_missing: Keys of the module that may be missing; "selectors." matches at the start of a key and after any dot.
        remedy: Advice at the end of the message on keys that differ.

    Raises:
        CheckpointMismatch: Keys are missing, unexpected or wrongly shaped; the message names ALL of them, and the module is untouched.
    """
    own = module.state_dict()
    problems = [f"missing {k} {tuple(own[k].shape)}" for k in own if k not in state and not _matches(k, allow_missing)]
    problems += [f"unexpected {k} {tuple(v.shape)}" for k, v in state.items() if k not in own]
    wrong = [k for k, v in state.items() if k in own and v.shape != own[k].shape]
    problems += [f"shape of {k}: file {tuple(state[k].shape)}, model {tuple(own[k].shape)}" for k in wrong]
    problems += [f"kind of {k}: file {_kind(v)}, model {_kind(own[k])}" for k, v in state.items() if k in own and _kind(v) != _kind(own[k])]
    if problems:
        raise CheckpointMismatch(
            f"checkpoint {name} is not of this {type(module).__name__}: {len(problems)} keys differ: " + "; ".join(problems) + f"; {remedy}"
        )
    module.load_state_dict(state, strict=False)


def load_dense(module: nn.Module, path: Path | str) -> dict[str, str]:
    """Start a pruned model from a dense one: everything must match but the parts that pruning adds (selectors, a class token).

    A model with a method `adopt`, state -> state, first converts weights of related models into its own form.

    Raises:
        CheckpointMismatch: See `load_weights`.
    """
    return load_weights(path, module, drop=("selectors.",), allow_missing=tuple(_added(module)), convert=getattr(module, "adopt", None))


def holds_learned_parts(state: Mapping[str, Tensor], module: nn.Module) -> bool:
    """Tell whether weights of a file have all that pruning has added to a model, of which some must learn, in the model's sizes."""
    added, learned = _added(module), {name for name, _ in module.named_parameters()}
    return bool(learned & set(added)) and all(name in state and state[name].shape == value.shape for name, value in added.items())


def _added(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of what pruning has added to a model: selectors, a class token, a learned fusion."""
    owners = [name + "." if name else "" for name, m in module.named_modules() if hasattr(m, "selectors") and hasattr(m, "backbone")]
    return {k: v for k, v in module.state_dict().items() for o in owners if k.startswith(o) and not k.startswith(f"{o}backbone.")}


def _grid_note(weights: Any) -> dict[str, str]:
    """Return a note of the grid of a ViT's position codes, if its sides differ: their number alone does not tell."""
    stems = (getattr(m, "patch_embed", None) for m in weights.modules()) if isinstance(weights, nn.Module) else ()
    sides = next((stem.grid_size for stem in stems if getattr(stem, "grid_size", None) is not None), (1, 1))
    return {} if sides[0] == sides[1] else {GRID_NOTE: f"{sides[0]}x{sides[1]}"}


def _damaged(path: Path, error: Exception) -> CheckpointMismatch:
    return CheckpointMismatch(f"checkpoint {path.name} is damaged or of another format ({error}); fetch or write it again")


def _kind(tensor: Tensor) -> str:
    """Return the words for how a tensor holds numbers. Numbers of another kind, such as int8 weights, would be copied as they are."""
    number = "complex" if tensor.is_complex() else "floating point" if tensor.is_floating_point() else str(tensor.dtype)
    layout = "" if tensor.layout is torch.strided else f" {tensor.layout}"
    return f"{number}{layout}{' without data' if tensor.is_meta else ''}"


def _plain_values() -> AbstractContextManager[Any]:
    """Allow torch to read the arguments and scores that training scripts store: making a Namespace or a number of NumPy runs no code."""
    allow = getattr(torch.serialization, "safe_globals", None)  # torch 2.5
    return nullcontext() if allow is None else allow([Namespace, *_numpy_numbers()])


@cache
def _numpy_numbers() -> list[Any]:
    """Return what a pickled scalar of NumPy is made of, under its names in NumPy 1 and 2."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]  # a function of NumPy's own that makes a scalar from its type and bytes
    types = [type(np.dtype(kind)) for kind in (np.bool_, np.float16, np.float32, np.float64, np.int32, np.int64)]
    named = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")  # torch 2.6 takes other names beside a function's own
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, *types, scalar, *((scalar, name) for name in names if named)]


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(key.startswith(p) or f".{p}" in key for p in patterns)


def _stored(value: Any, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value
