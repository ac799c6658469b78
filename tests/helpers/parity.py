"""The golden tests/golden/classifiers.json: what the authors' code of classifiers and segmenters computes on two drawn pictures."""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.helpers.filled import TRIMMED, fill, noise

MOST = 256  # numbers of a result
_NUMBER = re.compile(r"\.\d+\.")
_MANY = re.compile(r"\*(\d+)")  # in a key: it stands for so many keys, with 0, 1, ... in its place


@cache
def goldens() -> dict[str, dict[str, Any]]:
    """Return {name: entry} with `args` and `given` of the import, `shapes` of the file, and `logits`.

    An entry may have `file`, a name that says settings, and `shifts`, calibration constants by key.
    """
    return json.loads((TRIMMED / "classifiers.json").read_text())


def picture(count: int = 2) -> Tensor:
    """Return drawn pictures as a model sees them, (count,3,224,224): a colour for each patch, and noise upon it."""
    coarse = noise("picture.coarse", (count, 3, 14, 14), "dev").repeat_interleave(16, 2).repeat_interleave(16, 3)
    return (0.8 * coarse + 0.4 * noise("picture.fine", (count, 3, 224, 224), "dev")).float()


def filled_state(shapes: Mapping[str, list[int]], shifts: Mapping[str, list[float]] | None = None) -> dict[str, Tensor]:
    """Return the state of a file whose keys may stand for several, filled by name."""
    return {key: fill(key, shape, shift=(shifts or {}).get(key)) for key, shape in unfolded(shapes).items()}


def unfolded(shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return {key: shape} of a file, each key by itself."""
    found = {}
    for key, shape in shapes.items():
        many = _MANY.search(key)
        for number in range(int(many[1]) if many else 1):
            found[_MANY.sub(str(number), key)] = shape
    return found


def sampled(result: Tensor) -> Tensor:
    """Return every k-th number of a tensor, in order, with the least k that leaves at most `MOST`."""
    flat = result.flatten()
    return flat[:: math.ceil(len(flat) / MOST)]


def folded(shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return shapes with one key in the place of those that differ in one number only, if it is 0, 1, ... and they have one shape."""
    groups: dict[str, dict[str, list[int]]] = {}
    for key, shape in shapes.items():
        groups.setdefault(_NUMBER.sub(".*.", key, count=1), {})[key] = shape
    result = {}
    for pattern, members in groups.items():
        each = {pattern.replace("*", str(number)) for number in range(len(members))}
        alike = len(members) > 1 and each == members.keys() and len({tuple(shape) for shape in members.values()}) == 1
        result.update({pattern.replace("*", f"*{len(members)}"): next(iter(members.values()))} if alike else members)
    return result


def written(logits: Tensor) -> list[float]:
    """Return numbers as the golden holds them."""
    return [round(number, 6) for number in sampled(logits.to(torch.float64)).tolist()]
