"""Counts the MACs of a model of any kind, as torch counts them while the model runs on the meta device, where nothing is computed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

_PRODUCTS = ("bmm", "baddbmm")  # products of two activations; layers with weights are addmm, mm and convolutions
NOTE = "counted by torch over the whole model, head included; total = linear (layers with weights) + attention (products of activations)"


@dataclass(frozen=True)
class Counted:
    """Holds the cost of one image and the size of the model.

    Attributes:
        linear: MACs of layers with weights.
        attention: MACs of products of two activations.
        parameters: Number of parameters of the model.
    """

    linear: float
    attention: float
    parameters: int

    @property
    def total(self) -> float:
        """Return linear + attention."""
        return self.linear + self.attention


def counted(build: Callable[[], nn.Module], side: int) -> Counted:
    """Count the model that `build` makes, on one image (1,3,side,side); two of torch's flops are one MAC.

    Attention runs under the MATH kernel, because torch does not count fused kernels everywhere. Norms, activations and additions do not
    count.
    """
    with torch.device("meta"):
        model = build().eval().requires_grad_(False)  # torch's counter fails on a view of what wants a gradient (attention pooling)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, side, side))
    found = {str(operation).rsplit(".", 1)[-1]: flops / 2 for operation, flops in counter.get_flop_counts().get("Global", {}).items()}
    products = sum(macs for name, macs in found.items() if name in _PRODUCTS)
    return Counted(sum(found.values()) - products, float(products), sum(p.numel() for p in model.parameters()))
