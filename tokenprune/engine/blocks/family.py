"""What all families of models share: a timm model seen as embed -> blocks -> norm -> head."""

import copy
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers.hybrid_embed import HybridEmbed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tokenprune.engine.blocks.base import BaseBlock, layer_macs
from tokenprune.engine.blocks.refusals import part_obstacle
from tokenprune.engine.blocks.windowed import tables, windowed
from tokenprune.engine.blocks.windows import Windows
from tokenprune.engine.indexing import sized
from tokenprune.engine.lazy import once
from tokenprune.errors import UnsupportedBackbone


class Family(ABC):
    """The adapter of one class of models, `kind`, whose blocks are run by `adapters`.

    stem: what makes patch tokens, the model's `stem_name`. dim: C. prefix: P, class, distillation and register tokens. patch: pixels
    from one position to the next. heeds_prefix: the model's own mean reads `pool_include_prefix`. windows: inside which some blocks attend,
    the model's attribute of that name (`backbones.vit` sets it; timm's own forward does not know it). The model is held by reference;
    `describes` tells whether its parts are still those that were looked at.
    """

    kind: ClassVar[type[Any]]
    adapters: ClassVar[tuple[type[BaseBlock], ...]]
    stem_name: ClassVar[str] = "patch_embed"
    heeds_prefix: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:
        self.model = model  # of class `kind`
        self.windows: Windows | None = getattr(model, "windows", None)
        adapters = [self._adapter(block)(block, number) for number, block in enumerate(model.blocks)]
        self.blocks = [windowed(adapter, self.windows) for adapter in adapters]
        self.dim: int = model.embed_dim
        self.prefix: int = model.num_prefix_tokens
        self.stem: Any = getattr(model, self.stem_name)
        self.has_cls: bool = (model if hasattr(model, "cls_token") else self.stem).cls_token is not None
        self.patch: int = self.stem.feat_ratio()
        self._seen = parts_of(model, self.stem_name)

    def describes(self, model: Any) -> bool:
        """Tell whether this is the adapter of a model as it is now: none of its blocks, attentions and MLPs was exchanged."""
        now = parts_of(model, self.stem_name) if model is self.model else ()
        return len(now) == len(self._seen) and all(new is old for new, old in zip(now, self._seen, strict=True))

    @property
    def facts(self) -> dict[str, Any]:
        """Return what selectors and treatments are built for, by name."""
        heads = [block.heads for block in self.blocks]
        names = ("dim", "prefix", "has_cls", "patch", "own_positions")
        return {"depth": len(heads), "heads": heads, **{name: getattr(self, name) for name in names}}

    @classmethod
    def refusal(cls, model: Any) -> str | None:
        """Return why a model of `kind` cannot be run, or None."""
        if type(model).forward_features is not cls.kind.forward_features:
            return f"its class {type(model).__name__} has a forward_features of its own, which would be passed over"
        if not isinstance(getattr(model, "patch_drop", None), nn.Identity | None):
            return "patch_drop_rate > 0 drops tokens by itself; build the model without it"
        return next((reason for block in model.blocks if (reason := cls._block_refusal(block))), None)

    @property
    def own_positions(self) -> int:
        """Return N of the model's own image size."""
        return self.stem.num_patches

    @property
    def answers_by_prefix(self) -> bool:
        """Tell whether `classify` reads prefix tokens alone."""
        return self.model.global_pool == "token"

    @property
    def divisor(self) -> int:
        """Return pixels that the sides of an image must be a multiple of: a patch; all of the model's own image where it has windows."""
        return self.patch if self.windows is None else self.patch * math.isqrt(self.own_positions)

    def enter(self, images: Tensor) -> tuple[Tensor, Tensor | tuple[Tensor, ...] | None]:
        """Return what `embedded` does, with a rotary table (1 or h,N,2d) for each block where the model has windows.

        Raises:
            InvalidConfig: a grid that the windows do not tile.
        """
        x, rope = self.embedded(images)
        if self.windows is None:
            return x, rope
        grid = self.positions(*images.shape[-2:])
        return x, tables(self.windows, rope, getattr(self.model, "rope", None), grid, len(self.blocks))

    @abstractmethod
    def embedded(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return prefix and patch tokens (B,P+N,C) of images (B,3,h,w), position codes added, and the rotary table or None.

        The table is (N,2d), or one for each block and head (depth,h,N,2d), of the images' own grid.
        """

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the same with prefix (B,P,C) and patch tokens (B,N,C) apart."""
        x, rope = self.embedded(images)
        return x[:, : self.prefix], x[:, self.prefix :], rope

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid (H,W) of an image of that size in pixels."""
        rows, columns = self.stem.dynamic_feat_size((height, width))
        return sized(rows), sized(columns)

    def covered(self, images: Tensor) -> Tensor:
        """Return the pixels (B,3,H*p,W*p) that the patches of images (B,3,h,w) cover, for patches p pixels apart.

        Zeros are added below and on the right where the stem pads so (`dynamic_img_pad`), and pixels that no patch covers are cut off.
        """
        (height, width), (rows, columns) = (sized(side) for side in images.shape[-2:]), self.positions(*images.shape[-2:])
        step_down, step_right = self.stem.feat_ratio(as_scalar=False)
        below, right = rows * step_down - height, columns * step_right - width
        return F.pad(images, (0, right, 0, below)) if below or right else images

    def embed_macs(self, positions: int) -> float:
        """Return the MACs of the patch embedding, with the convolutions in front of it in a hybrid model."""
        if isinstance(self.stem, HybridEmbed):
            return positions * self._stem_macs
        proj = self.stem.proj
        if isinstance(proj, nn.Linear) or not hasattr(proj, "kernel_size"):
            return float(positions * layer_macs(proj))
        return float(positions * proj.out_channels * proj.in_channels // proj.groups * math.prod(proj.kernel_size))

    def norm(self, x: Tensor) -> Tensor:
        """Return the final norm of x (..., C)."""
        return self.model.norm(x)

    def classify(self, prefix: Tensor, tokens: Tensor, live: Tensor | None, mass: Tensor | None = None) -> Tensor:
        """Return logits of normed prefix (B,P,C) and tokens (B,K,C) through the model's own pooling and head.

        A distilled DeiT answers as timm's: the mean of both heads, both apart if its `distilled_training` is set in training. A mean counts
        the prefix where the model has a `pool_include_prefix` that is true (Cropr's pooling), also where timm's own does not know of it.
        A mean counts a merged token as often as tokens went into it (ToMe on MAE); other poolings count it once.

        Args:
            prefix, tokens: after the final norm; a class token that was added to a model without one is not pooled.
            live: (B,K) which tokens count, None for all.
            mass: (B,K) number of tokens merged into each, None for one each.

        Raises:
            UnsupportedBackbone: uneven counts under a pooling other than `token` and `avg`.
        """
        pooling, prefix = self.model.global_pool, prefix[:, prefix.shape[1] - self.prefix :]
        included = pooling == "avg" and getattr(self.model, "pool_include_prefix", False)
        if pooling == "token":
            return self.model.forward_head(prefix)
        weighs = mass is not None and pooling == "avg"
        if live is None and not weighs and (self.heeds_prefix or not included):
            return self.model.forward_head(torch.cat([prefix, tokens], 1) if self.prefix else tokens)
        if pooling != "avg":
            raise UnsupportedBackbone(f"uneven token counts cannot be pooled by {pooling!r}; models with `token` and `avg` pooling can")
        weight = torch.ones_like(tokens[..., :1]) if mass is None else mass.unsqueeze(-1).to(tokens.dtype)
        weight = weight if live is None else weight * live.unsqueeze(-1)
        total, count = (tokens * weight).sum(1), weight.sum(1)
        if included:
            total, count = total + prefix.sum(1), count + self.prefix
        mean = (total / count).unsqueeze(1)
        return self.model.forward_head(mean.expand(-1, self.prefix + 1, -1))  # equal tokens: the model's mean is this mean

    def label(self, tokens: Tensor) -> Tensor:
        """Return logits (B,K,classes) of normed tokens (B,K,C), each by itself, through the model's own head: Segmenter's linear head."""
        return self.model.head(self.model.head_drop(self.model.fc_norm(tokens)))

    def head_macs(self) -> float:
        """Return the MACs of the classification heads, 0 without one; attention pooling (`map`) is not counted."""
        heads = (getattr(self.model, name, None) for name in ("head", "head_dist"))
        return float(sum(layer_macs(head) for head in heads if isinstance(head, nn.Module)))

    @classmethod
    def _adapter(cls, block: nn.Module) -> type[BaseBlock]:
        return next(a for a in cls.adapters if type(block) is a.kind)

    @classmethod
    def _block_refusal(cls, block: nn.Module) -> str | None:
        return part_obstacle("block", block, [a.kind for a in cls.adapters]) or cls._adapter(block).refusal(block)

    @once
    def _stem_macs(self) -> float:
        """MACs of a convolutional stem for each position, counted by torch on the meta device."""
        stem = copy.deepcopy(self.stem).to("meta").eval()
        with FlopCounterMode(display=False) as counter:
            stem(torch.empty(1, stem.in_chans, *stem.img_size, device="meta"))
        return counter.get_total_flops() / 2 / stem.num_patches


def parts_of(model: Any, stem_name: str) -> tuple[Any, ...]:
    """Return what an adapter relies on: the stem, and of each block itself, its attention and its MLP, with forwards set on instances."""
    found = [getattr(model, stem_name, None)]
    for block in getattr(model, "blocks", ()):
        attn = getattr(block, "attn", None)
        found += [block, attn, getattr(block, "mlp", None), vars(block).get("forward"), vars(attn).get("forward") if attn else None]
    return tuple(found)
