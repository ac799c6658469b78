"""Fills the tensors of a published layout from their names, so that an importer is proved without the published file.

A golden was made by the authors' code with every tensor of its state dict filled in this way. `tests/golden/README.md` describes the rule.
"""

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

SHARED = Path(os.environ.get("TOKENPRUNE_GOLDEN", Path(__file__).resolve().parents[2].parent / "shared" / "golden"))
TRIMMED = Path(__file__).resolve().parents[1] / "golden"

# Endings of names of weights with more than one dimension, and the gain of each. Where several fit, the last one counts.
_GAINS = {
    "sampling_offsets.weight": 0.7,
    "attention_weights.weight": 1.0,
    "rpn_cls.weight": 0.8,
    "rpn_reg.weight": 0.2,
    "fc_cls.weight": 2.2,
    "fc_reg.weight": 0.7,
    "conv_logits.weight": 1.5,
    "head.weight": 2.0,
    "patch_embed.proj.weight": 0.7,
    "attn.proj.weight": 0.7,
    "out_proj.weight": 0.7,
    "in_proj_weight": 1.3,
    "qkv.weight": 1.3,
}
# Parts of names of layers that a ReLU follows: gain sqrt(2).
_BEFORE_RELU = ("spm.stem.", "spm.conv", "rpn_conv.", "mask_head.convs.", "mask_head.upsample.", "shared_fcs.")
_LATERAL = (0.3, 0.3, 0.4, 0.6)  # gains of the four lateral convolutions of a feature pyramid network
_TRANSPOSED = ("backbone.up.weight", "mask_head.upsample.weight")  # weights (in,out,k,k)
# Endings of names of vectors and codes: (mean, standard deviation).
_PLACES = {
    "running_mean": (0.0, 0.1),
    "running_var": (1.0, 0.2),
    "gamma": (0.5, 0.1),
    "pos_embed": (0.0, 3.0),
    "level_embed": (0.0, 0.5),
    "cls_token": (0.0, 0.5),
}


def noise(key: str, shape: Sequence[int], salt: str) -> Tensor:
    """Return float64 numbers of mean 0 and variance 1 that depend on the name alone: the sum of four uniform draws, scaled.

    Args:
        key: Name of the tensor.
        shape: Its shape.
        salt: Word that tells one filling from another, "dev" for the goldens.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{salt}/{key}".encode()))
    uniform = torch.rand(4, math.prod(shape), generator=generator)
    return (uniform.double().sum(0) - 2.0).mul(math.sqrt(3.0)).reshape(tuple(shape))


def fill(key: str, shape: Sequence[int], salt: str = "dev", shift: float | Sequence[float] | None = None) -> Tensor:
    """Return the tensor of one name.

    Args:
        key: Name of the tensor in the authors' file.
        shape: Its shape.
        salt: See `noise`.
        shift: Added to it: a calibration constant, which lets gates keep about half of the tokens and detectors find something.

    Returns:
        float32, or int64 for a counter of BatchNorm.
    """
    if key.endswith("num_batches_tracked"):
        return torch.tensor(1000)
    mean, deviation = _moments(key, tuple(shape))
    value = mean + deviation * noise(key, shape, salt)
    value = value.abs() if key.endswith("running_var") else value
    return (value if shift is None else value + torch.tensor(shift, dtype=torch.float64)).float()


def filled(
    shapes: Mapping[str, Sequence[int]], salt: str = "dev", shifts: Mapping[str, float | Sequence[float]] | None = None
) -> dict[str, Tensor]:
    """Return a whole state dict.

    Args:
        shapes: {name: shape} in the order of the file.
        salt: See `noise`.
        shifts: {name: calibration constant}, see `fill`.
    """
    return {key: fill(key, shape, salt, (shifts or {}).get(key)) for key, shape in shapes.items()}


def crc(tensor: Tensor) -> int:
    """Return the crc32 of a tensor's bytes."""
    return zlib.crc32(tensor.contiguous().view(-1).numpy().tobytes())


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} from a list of keys beside the goldens (keys_NAME.json)."""
    return {row["key"]: tuple(row["shape"]) for row in rows_of(path)}


def rows_of(path: Path) -> list[dict]:
    """Return the rows of such a list: key, shape, dtype and crc32 of the filled bytes, as `crc` or `crc32`."""
    content = json.loads(path.read_text())
    return content["state_dict"] if isinstance(content, dict) else content


def _moments(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return mean and standard deviation of the numbers of a name."""
    for ending, moments in _PLACES.items():
        if key.endswith(ending):
            return moments
    if key.endswith("bias"):
        return 0.0, 1.5 if "sampling_offsets" in key else 0.3 if "attention_weights" in key else 0.02
    if len(shape) == 1:
        return 1.0, 0.1
    inputs = shape[0] if key.endswith(_TRANSPOSED) else math.prod(shape[1:])
    return 0.0, _gain(key) / math.sqrt(inputs)


def _gain(key: str) -> float:
    if "selective_modules." in key and key.endswith("mlp.fc2.weight"):
        return 3.0
    if "fpn_convs." in key:
        return 0.6
    if "lateral_convs." in key:
        return _LATERAL[int(key.split(".")[-3])]
    fitting = [gain for ending, gain in _GAINS.items() if key.endswith(ending)]
    return fitting[-1] if fitting else math.sqrt(2.0) if any(part in key for part in _BEFORE_RELU) else 1.0
