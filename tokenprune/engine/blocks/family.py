"""What the engine asks of a model: embed -> blocks -> norm -> head, in any library; `timm_family` has what timm's models share."""

from abc import ABC, abstractmethod
from operator import is_
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.engine.blocks.base import BaseBlock
from tokenprune.engine.blocks.refusals import part_obstacle
from tokenprune.engine.blocks.windowed import windowed
from tokenprune.engine.blocks.windows import Windows
from tokenprune.engine.indexing import sized


class Family(ABC):
    """The adapter of one class of models, `kind`, whose blocks are run by `adapters`.

    dim: C. prefix: P, class, distillation and register tokens. patch: pixels from one position to the next. has_cls: whether the first of
    the prefix is a class token. windows: inside which some blocks attend, the model's attribute of that name (`backbones.vit` sets it;
    timm's own forward does not know it). The model is held by reference; `describes` tells whether its parts are still those that were
    looked at.
    """

    kind: ClassVar[type[Any]]
    adapters: ClassVar[tuple[type[BaseBlock], ...]]
    dim: int
    prefix: int
    patch: int
    has_cls: bool

    def __init__(self, model: Any) -> None:
        self.model = model
        self.windows: Windows | None = getattr(model, "windows", None)
        adapters = [self._adapter(block)(block, number) for number, block in enumerate(self.layers(model))]
        self.blocks = [windowed(adapter, self.windows) for adapter in adapters]
        self._seen = self.parts(model)

    @classmethod
    def takes(cls, model: nn.Module) -> bool:
        """Tell whether a model is of this family."""
        return isinstance(model, cls.kind)

    @classmethod
    @abstractmethod
    def layers(cls, model: Any) -> nn.ModuleList:
        """Return the blocks of a model."""

    @classmethod
    @abstractmethod
    def parts(cls, model: Any) -> tuple[Any, ...]:
        """Return what an adapter relies on: the stem, each block, its attention and its MLP, and forwards that were set on instances."""

    def describes(self, model: Any) -> bool:
        """Tell whether this is the adapter of a model as it is now: none of its blocks, attentions and MLPs was exchanged."""
        now = self.parts(model) if model is self.model else ()
        return len(now) == len(self._seen) and all(map(is_, now, self._seen))

    @property
    def facts(self) -> dict[str, Any]:
        """Return what selectors and treatments are built for, by name."""
        heads = [block.heads for block in self.blocks]
        names = ("dim", "prefix", "has_cls", "patch", "own_positions")
        return {"depth": len(heads), "heads": heads, **{name: getattr(self, name) for name in names}}

    @classmethod
    @abstractmethod
    def refusal(cls, model: Any) -> str | None:
        """Return why a model of `kind` cannot be run, or None."""

    @property
    @abstractmethod
    def own_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the images that the model was made for."""

    @property
    @abstractmethod
    def own_positions(self) -> int:
        """Return N of the model's own image size."""

    @property
    @abstractmethod
    def steps(self) -> tuple[int, int]:
        """Return how many pixels lie between positions, downwards and to the right."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Return the number of outputs of the classification head, 0 without one."""

    @property
    @abstractmethod
    def answers_by_prefix(self) -> bool:
        """Tell whether `classify` reads prefix tokens alone."""

    @property
    @abstractmethod
    def recomputes(self) -> bool:
        """Tell whether the model is set to compute its blocks again in the backward pass (gradient checkpointing)."""

    @property
    def divisor(self) -> int:
        """Return pixels that the sides of an image must be a multiple of."""
        return self.patch

    def enter(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, Tensor | tuple[Tensor, ...] | None]:
        """Return what `embedded` does, with a rotary table (1 or h,N,2d) for each block where the model has windows."""
        return self.embedded(images, resize_codes)

    @abstractmethod
    def embedded(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return prefix and patch tokens (B,P+N,C) of images (B,3,h,w), position codes added, and the rotary table or None.

        The table is (N,2d), or one for each block and head (depth,h,N,2d), of the images' own grid.

        Args:
            images: (B,3,h,w).
            resize_codes: Whether position codes are fitted to the grid of images of another size, in a model that does so on request only
                (transformers); a model of timm has this as a setting of its own.
        """

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the same with prefix (B,P,C) and patch tokens (B,N,C) apart."""
        x, rope = self.embedded(images)
        return x[:, : self.prefix], x[:, self.prefix :], rope

    @abstractmethod
    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid (H,W) of an image of that size in pixels."""

    def covered(self, images: Tensor) -> Tensor:
        """Return the pixels (B,3,H*p,W*p) that the patches of images (B,3,h,w) cover, for patches p pixels apart.

        Zeros are added below and on the right where the stem pads so (`dynamic_img_pad`), and pixels that no patch covers are cut off.
        """
        (height, width), (rows, columns) = (sized(side) for side in images.shape[-2:]), self.positions(*images.shape[-2:])
        step_down, step_right = self.steps
        below, right = rows * step_down - height, columns * step_right - width
        return F.pad(images, (0, right, 0, below)) if below or right else images

    @abstractmethod
    def embed_macs(self, positions: int) -> float:
        """Return the MACs of the patch embedding."""

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """Return the final norm of x (..., C)."""

    @abstractmethod
    def classify(self, prefix: Tensor, tokens: Tensor, live: Tensor | None, mass: Tensor | None = None) -> Tensor:
        """Return logits of normed prefix (B,P,C) and tokens (B,K,C) through the model's own pooling and head.

        Args:
            prefix, tokens: after the final norm; a class token that was added to a model without one is not pooled.
            live: (B,K) which tokens count, None for all.
            mass: (B,K) number of tokens merged into each, None for one each. A mean counts a merged token as often as tokens went into it
                (ToMe on MAE); other poolings count it once.
        """

    @abstractmethod
    def label(self, tokens: Tensor) -> Tensor:
        """Return logits (B,K,classes) of normed tokens (B,K,C), each by itself, through the model's own head: Segmenter's linear head."""

    @abstractmethod
    def head_macs(self) -> float:
        """Return the MACs of the classification heads, 0 without one."""

    @classmethod
    def _adapter(cls, block: nn.Module) -> type[BaseBlock]:
        return next(a for a in cls.adapters if type(block) is a.kind)

    @classmethod
    def _block_refusal(cls, block: nn.Module) -> str | None:
        return part_obstacle("block", block, [a.kind for a in cls.adapters]) or cls._adapter(block).refusal(block)


def weighted_sum(tokens: Tensor, live: Tensor | None, mass: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sum (B,C) and the number (B,1) of tokens (B,K,C): those that are `live` (B,K), each as often as its `mass` (B,K) says."""
    weight = torch.ones_like(tokens[..., :1]) if mass is None else mass.unsqueeze(-1).to(tokens.dtype)
    weight = weight if live is None else weight * live.unsqueeze(-1)
    return (tokens * weight).sum(1), weight.sum(1)


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """Return total / count (B,C) of a `weighted_sum`; zeros for an image of which no token is counted (`Selector.may_keep_none`)."""
    return total / count.where(count > 0, 1)  # the total of nothing is 0
