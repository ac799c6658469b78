"""Opens a published file: its tensors, the settings that its training script stored, and which of its parts counts."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.utils.checkpoints import read_metadata, read_plain

# In the order in which authors' evaluation scripts look for weights. A file that says `ema_best` is judged by its average.
_PARTS = ("state_dict_ema", "ema_state", "model", "state_dict", "model_state", "module")
_AVERAGE = "model_ema"
_MODULE = "module."  # of torch's DataParallel


@dataclass(frozen=True)
class Release:
    """Holds the content of a published file.

    Attributes:
        name: Name of the file, which A-ViT's authors write settings in.
        state: {key: tensor} in the authors' keys.
        args: Settings that the training script stored, {} if there are none.
        meta: Other plain values beside the weights (mmcv's `meta`), and the strings of a safetensors header.
        part: Name of the mapping that the weights stood in; "" for a plain mapping of tensors.
        folder: Where the file lies, for layouts that publish a second file beside it; None if it was not read from one.
    """

    name: str
    state: Mapping[str, Tensor]
    args: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    folder: Path | None = None


def read_release(path: Path | str) -> Release:
    """Open a file without running code from it.

    Raises:
        CheckpointMismatch: The file is missing, damaged, needs code to be read, or holds no tensors.
    """
    path = Path(path)
    content = read_plain(path)
    if not isinstance(content, Mapping):
        raise CheckpointMismatch(f"checkpoint {path.name} holds a {type(content).__name__}; allowed: a mapping of names to tensors")
    part, weights = _weights(content)
    state = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    if not state:
        held = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise CheckpointMismatch(f"checkpoint {path.name} holds no tensors (it holds {held}); fetch it again, or take the file of weights")
    if all(key.startswith(_MODULE) for key in state):
        state = {key.removeprefix(_MODULE): value for key, value in state.items()}
    meta = content.get("meta")
    return Release(path.name, state, _plain(content.get("args")), {**_plain(meta), **read_metadata(path)}, part, path.parent)


def _weights(content: Mapping[Any, Any]) -> tuple[str, Mapping[Any, Any]]:
    """Return (name, mapping) of the part of a file that its authors judge."""
    if content.get("ema_best") and isinstance(content.get(_AVERAGE), Mapping):
        return _AVERAGE, content[_AVERAGE]
    for name in (*_PARTS, _AVERAGE):
        if isinstance(content.get(name), Mapping):
            return name, content[name]
    return "", content


def _plain(values: Any) -> dict[str, Any]:
    """Return settings as a dict, whether they are stored as a mapping or as argparse's Namespace."""
    if isinstance(values, Namespace):
        return vars(values)
    return {str(key): value for key, value in values.items()} if isinstance(values, Mapping) else {}
