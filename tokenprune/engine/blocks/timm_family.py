"""What timm's families share: a patch embedding, `blocks`, `norm` and `forward_head`."""

import copy
import math
from typing import Any, ClassVar

import torch
from timm.layers.hybrid_embed import HybridEmbed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tokenprune.engine.blocks.base import layer_macs
from tokenprune.engine.blocks.family import Family, mean_of, weighted_sum
from tokenprune.engine.blocks.windowed import tables
from tokenprune.engine.indexing import sized
from tokenprune.engine.lazy import once
from tokenprune.errors import UnsupportedBackbone


class TimmFamily(Family):
    """The adapter of one class of timm's models.

    stem: what makes patch tokens, the model's `stem_name`. heeds_prefix: the model's own mean reads `pool_include_prefix`.
    """

    stem_name: ClassVar[str] = "patch_embed"
    heeds_prefix: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.dim = model.embed_dim
        self.prefix = model.num_prefix_tokens
        self.stem: Any = getattr(model, self.stem_name)
        self.has_cls = (model if hasattr(model, "cls_token") else self.stem).cls_token is not None
        self.patch = self.stem.feat_ratio()

    @classmethod
    def layers(cls, model: Any) -> nn.ModuleList:
        """Return the blocks of a model."""
        return model.blocks

    @classmethod
    def parts(cls, model: Any) -> tuple[Any, ...]:
        """Return the stem, and of each block itself, its attention and its MLP, with forwards set on instances."""
        found = [getattr(model, cls.stem_name, None)]
        for block in getattr(model, "blocks", ()):
            attn = getattr(block, "attn", None)
            found += [block, attn, getattr(block, "mlp", None), vars(block).get("forward"), vars(attn).get("forward") if attn else None]
        return tuple(found)

    @classmethod
    def refusal(cls, model: Any) -> str | None:
        """Return why a model of `kind` cannot be run, or None."""
        if type(model).forward_features is not cls.kind.forward_features:
            return f"its class {type(model).__name__} has a forward_features of its own, which would be passed over"
        if not isinstance(getattr(model, "patch_drop", None), nn.Identity | None):
            return "patch_drop_rate > 0 drops tokens by itself; build the model without it"
        return next((reason for block in model.blocks if (reason := cls._block_refusal(block))), None)

    @property
    def own_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the images that the model was made for: by timm's configuration if its stem has no size."""
        size = getattr(getattr(self.model, "patch_embed", None), "img_size", None)  # a NaFlex model has none
        size = size or (getattr(self.model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-2:]
        return int(size[0]), int(size[1])

    @property
    def own_positions(self) -> int:
        """Return N of the model's own image size."""
        return self.stem.num_patches

    @property
    def answers_by_prefix(self) -> bool:
        """Tell whether `classify` reads prefix tokens alone."""
        return self.model.global_pool == "token"

    @property
    def steps(self) -> tuple[int, int]:
        """Return how many pixels lie between positions, downwards and to the right."""
        return self.stem.feat_ratio(as_scalar=False)

    @property
    def classes(self) -> int:
        """Return the number of outputs of the classification head, 0 without one."""
        return getattr(self.model, "num_classes", 0)

    @property
    def recomputes(self) -> bool:
        """Tell whether the model is set to compute its blocks again in the backward pass."""
        return getattr(self.model, "grad_checkpointing", False)

    @property
    def divisor(self) -> int:
        """Return pixels that the sides of an image must be a multiple of: a patch; all of the model's own image where it has windows."""
        return self.patch if self.windows is None else self.patch * math.isqrt(self.own_positions)

    def enter(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, Tensor | tuple[Tensor, ...] | None]:
        """Return what `embedded` does, with a rotary table (1 or h,N,2d) for each block where the model has windows.

        Raises:
            InvalidConfig: a grid that the windows do not tile.
        """
        x, rope = self.embedded(images, resize_codes)
        if self.windows is None:
            return x, rope
        grid = self.positions(*images.shape[-2:])
        return x, tables(self.windows, rope, getattr(self.model, "rope", None), grid, len(self.blocks))

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid (H,W) of an image of that size in pixels."""
        rows, columns = self.stem.dynamic_feat_size((height, width))
        return sized(rows), sized(columns)

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
        total, count = weighted_sum(tokens, live, mass)
        if included:
            total, count = total + prefix.sum(1), count + self.prefix
        mean = mean_of(total, count).unsqueeze(1)
        return self.model.forward_head(mean.expand(-1, self.prefix + 1, -1))  # equal tokens: the model's mean is this mean

    def label(self, tokens: Tensor) -> Tensor:
        """Return logits (B,K,classes) of normed tokens (B,K,C), each by itself, through the model's own head: Segmenter's linear head."""
        return self.model.head(self.model.head_drop(self.model.fc_norm(tokens)))

    def head_macs(self) -> float:
        """Return the MACs of the classification heads, 0 without one; attention pooling (`map`) is not counted."""
        heads = (getattr(self.model, name, None) for name in ("head", "head_dist"))
        return float(sum(layer_macs(head) for head in heads if isinstance(head, nn.Module)))

    @once
    def _stem_macs(self) -> float:
        """MACs of a convolutional stem for each position, counted by torch on the meta device."""
        stem = copy.deepcopy(self.stem).to("meta").eval()
        with FlopCounterMode(display=False) as counter:
            stem(torch.empty(1, stem.in_chans, *stem.img_size, device="meta"))
        return counter.get_total_flops() / 2 / stem.num_patches
