"""Builds ViT-Adapter (Chen et al., ICLR 2023) around a pruned ViT, as SViT uses it for detection (its section 4.1).

A plain ViT keeps one stride, and pruning takes tokens away from it; the adapter keeps a full convolutional pyramid beside it. Before each
of four groups of blocks an injector lets tokens read the pyramid. After each group an extractor lets the pyramid read the tokens' map.
Tokens are dropped by the blocks alone. The papers leave some points open, which are decided here:

- Dropped tokens that are remembered (preserve, reactivate, ...) stay on the map: every injector writes all N positions, and every
  extractor reads them. So a preserved token is constant inside a group of blocks, but not from group to group (SViT's released code does
  the same).
- Dropped tokens that are forgotten (remove, fuse) are gone: an injector writes only the tokens of the sequence, each at its own place.
  Extractors (before their norm, whose bias is learned) and the final addition read zeros where there is no token. A fused token has no
  place and is neither written nor read.
- A merged token stands for all its positions: extractors read its value there, and injectors write it at its own place.
- Prefix tokens (CLS) bypass the adapter.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from tokenprune.backbones.deformable import DeformableAttention, Shapes, cell_centres, value_width
from tokenprune.backbones.maps import EncoderMaps
from tokenprune.backbones.pyramid import SCALES, level_name, level_strides
from tokenprune.backbones.spatial_prior import LEVELS, SpatialPrior, to_maps
from tokenprune.errors import InvalidConfig

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT
from tokenprune.engine.outputs import Outputs
from tokenprune.engine.state import TokenState

GROUPS = 4  # groups of blocks
EXTRA_EXTRACTORS = 2  # additional extractors after the last group
PATCHES = (8, 16)
_EPS = 1e-6


@dataclass(frozen=True)
class AdapterConfig:
    """Sets the adapter of a ViT. The defaults are those of ViT-Adapter-T and -S; B has 12 heads and ratio 0.5.

    Args:
        conv_dim: Channels of the first convolutions of the spatial prior.
        heads: Heads of the deformable attention.
        points: Points that a head of the deformable attention reads on a level.
        ratio: Width of the values of the deformable attention over the ViT's width.
        ffn_ratio: Hidden width of the extractors' feed-forward part over the ViT's width.
    """

    conv_dim: int = 64
    heads: int = 6
    points: int = 4
    ratio: float = 1.0
    ffn_ratio: float = 0.25


def adapter_problems(cfg: AdapterConfig, patch_size: int, embed_dim: int, depth: int) -> list[str]:
    """Return the reasons why an adapter cannot be built around such a ViT; [] if it can."""
    width = value_width(embed_dim, cfg.ratio)
    bad = [
        (patch_size not in PATCHES, f"a ViT-Adapter over patches of {patch_size} px is not known; allowed are patch sizes 8 and 16"),
        (depth % GROUPS, f"a ViT-Adapter needs {GROUPS} equal groups of blocks; depth is {depth}, allowed are multiples of {GROUPS}"),
        (
            cfg.heads < 1 or width < 1 or width % max(cfg.heads, 1),
            f"adapter.heads {cfg.heads} does not divide its {width} channels (adapter.ratio {cfg.ratio:g} of {embed_dim})",
        ),
        (min(cfg.conv_dim, cfg.points) < 1, f"adapter.conv_dim {cfg.conv_dim}, adapter.points {cfg.points}: allowed are 1 and more"),
        (int(embed_dim * cfg.ffn_ratio) < 1, f"adapter.ffn_ratio {cfg.ffn_ratio:g} of {embed_dim} channels leaves none; use 0.25"),
    ]
    return [text for wrong, text in bad if wrong]


class Injector(nn.Module):
    """Lets tokens read the pyramid (ViT-Adapter Eq. 1): x + gamma * attention(norm(x), norm(c)).

    gamma starts at 0, so the ViT is unchanged at first.

    Args:
        dim: Channels C of the ViT.
        cfg: The adapter's settings.
    """

    def __init__(self, dim: int, cfg: AdapterConfig) -> None:
        super().__init__()
        self.query_norm, self.feature_norm = nn.LayerNorm(dim, eps=_EPS), nn.LayerNorm(dim, eps=_EPS)
        self.attention = DeformableAttention(dim, cfg.heads, LEVELS, cfg.points, cfg.ratio)
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tensor, places: Tensor, pyramid: Tensor, shapes: Shapes) -> Tensor:
        """Return the tokens, (B,Q,C), with the values that they read.

        Args:
            tokens: Tokens, (B,Q,C).
            places: Places of the tokens, (B,Q,2).
            pyramid: The pyramid, (B,S,C).
            shapes: Shapes of its levels.
        """
        return tokens + self.gamma * self.attention(self.query_norm(tokens), places, self.feature_norm(pyramid), shapes)


class Extractor(nn.Module):
    """Lets the pyramid read the tokens' map (ViT-Adapter Eq. 2 and 3): cross-attention, then a feed-forward part.

    Args:
        dim: Channels C of the ViT.
        cfg: The adapter's settings.
        drop_path: Stochastic depth of the feed-forward part.
    """

    def __init__(self, dim: int, cfg: AdapterConfig, drop_path: float) -> None:
        super().__init__()
        self.query_norm, self.feature_norm = nn.LayerNorm(dim, eps=_EPS), nn.LayerNorm(dim, eps=_EPS)
        self.attention = DeformableAttention(dim, cfg.heads, 1, cfg.points, cfg.ratio)
        self.ffn_norm, self.ffn = nn.LayerNorm(dim, eps=_EPS), ConvFFN(dim, int(dim * cfg.ffn_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, pyramid: Tensor, places: Tensor, map_: Tensor, grid: tuple[int, int], shapes: Shapes) -> Tensor:
        """Return the pyramid, (B,S,C), with the values that it read.

        Args:
            pyramid: The pyramid, (B,S,C).
            places: Places of its cells, (B,S,2).
            map_: The tokens' map, (B,N,C), zeros where tokens were removed.
            grid: The grid (H,W) of the map.
            shapes: Shapes of the pyramid's levels.
        """
        pyramid = pyramid + self.attention(self.query_norm(pyramid), places, self.feature_norm(map_), [grid])
        return pyramid + self.drop_path(self.ffn(self.ffn_norm(pyramid), shapes))


class ConvFFN(nn.Module):
    """Applies a linear layer, a depthwise 3x3 convolution on each level by itself, GELU and a linear layer.

    Args:
        dim: Channels C.
        hidden: Channels in between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.depthwise.weight, mode="fan_out")
        nn.init.zeros_(self.depthwise.bias)

    def forward(self, x: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        """Map (B,S,C) to (B,S,C).

        Args:
            x: The pyramid, (B,S,C).
            shapes: Shapes of its levels.
        """
        maps = [self.depthwise(m).flatten(2).transpose(1, 2) for m in to_maps(self.fc1(x), shapes)]
        return self.fc2(F.gelu(torch.cat(maps, 1)))


class ViTAdapter(EncoderMaps):
    """Maps images (B,3,H,W) to {"p2": (B,C,H/4,W/4), ...}: the maps of the chosen scales 4, 2, 1, 0.5 of the patch grid, fine to coarse.

    The ViT should have no final norm, and `build_vit` builds it so: the maps are normalised here, by BatchNorm over the images of a device.
    torch.nn.SyncBatchNorm.convert_sync_batchnorm makes it one over all devices.

    Args:
        pruned: The encoder; the module owns it.
        cfg: The adapter's settings; None for the defaults.
        scales: Some of {4, 2, 1, 0.5}.
        drop_path: Stochastic depth of the extractors' feed-forward parts (the ViT's rate in the papers).

    Raises:
        InvalidConfig: An adapter cannot have this patch size, depth or width, or a scale is not of {4, 2, 1, 0.5}.
    """

    def __init__(
        self, pruned: "PrunedViT", cfg: AdapterConfig | None = None, scales: Sequence[float] = SCALES, drop_path: float = 0.0
    ) -> None:
        """Build the prior, the injectors and the extractors."""
        super().__init__(pruned)
        cfg, dim, patch = cfg or AdapterConfig(), pruned.embed_dim, pruned.patch_size
        problems = adapter_problems(cfg, patch, dim, pruned.depth)
        if problems:
            raise InvalidConfig(problems)
        names, size = level_strides(patch, scales), pruned.depth // GROUPS
        self.groups = [(first, first + size) for first in range(0, pruned.depth, size)]
        self.levels = {s: level_name(patch / s) for s in sorted(scales, reverse=True)}
        self.prior = SpatialPrior(dim, patch, cfg.conv_dim, finest=4 in scales)
        self.injectors = nn.ModuleList(Injector(dim, cfg) for _ in self.groups)
        counts = [1] * (GROUPS - 1) + [1 + EXTRA_EXTRACTORS]
        self.extractors = nn.ModuleList(nn.ModuleList(Extractor(dim, cfg, drop_path) for _ in range(n)) for n in counts)
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2) if 4 in scales else None
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(dim) for name in names})

    @property
    def divisor(self) -> int:
        """Return two patches, because the coarsest level has their stride."""
        return 2 * self.pruned.patch_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps. H and W must be multiples of two patches.

        Raises:
            InvalidConfig: The images have another size.
        """
        first, pyramid, shapes, self.last_outputs, _ = self._interact(images)
        return self._maps(first, to_maps(pyramid, shapes), self.last_outputs)

    def encoder_alone(self, images: Tensor) -> Callable[[], Any]:
        """Return a call that repeats the encoder's part of a forward pass on exactly the tokens that the injectors left."""
        *_, entered = self._interact(images)

        def alone() -> Outputs:
            self.pruned.start(images)
            for state, group in zip(entered, self.groups, strict=True):
                state, _ = self.pruned.run(state, *group)
            return self.pruned.finish(state, ())

        return alone

    def _interact(self, images: Tensor) -> tuple[Tensor | None, Tensor, list[tuple[int, int]], Outputs, list[TokenState]]:
        """Run blocks and adapter.

        Returns:
            c1; the pyramid as a sequence; its shapes; the encoder's Outputs; the states that entered each group.
        """
        self._check(images)
        first, pyramid, shapes = self.prior(images)
        state, usage, entered = self.pruned.start(images), [], []
        places = cell_centres(shapes, images.device).expand(len(images), -1, -1)
        for group, injector, extractors in zip(self.groups, self.injectors, self.extractors, strict=True):
            state = self._inject(injector, state, pyramid, shapes)
            entered.append(state)
            state, used = self.pruned.run(state, *group)
            usage += used
            map_, _ = self.pruned.view(state)
            for extractor in extractors:
                pyramid = extractor(pyramid, places, map_, state.grid, shapes)
        return first, pyramid, shapes, self.pruned.finish(state, tuple(usage)), entered

    def _inject(self, injector: Injector, state: TokenState, pyramid: Tensor, shapes: Shapes) -> TokenState:
        centres = cell_centres([state.grid], pyramid.device)
        if self.pruned.treatment.remembers:
            map_, _ = self.pruned.view(state)
            return state.with_dense(injector(map_, centres.expand(len(map_), -1, -1), pyramid, shapes))
        # Under masked execution dead slots are written, too; no token attends to them.
        written = injector(state.tokens, centres[state.index.clamp(min=0)], pyramid, shapes)
        return state.replace(tokens=written.where((state.index >= 0).unsqueeze(-1), state.tokens))

    def _maps(self, first: Tensor | None, maps: list[Tensor], outputs: Outputs) -> dict[str, Tensor]:
        """Add the tokens' map, resized, to every level, and normalise each level."""
        tokens = outputs.map.transpose(1, 2).unflatten(2, outputs.grid)
        levels = dict(zip(SCALES[1:], maps, strict=True))
        if first is not None:
            levels[SCALES[0]] = first + self.up(maps[0])
        result = {}
        for scale, name in self.levels.items():
            resized = F.interpolate(tokens, levels[scale].shape[-2:], mode="bilinear", align_corners=False)
            result[name] = self.norms[name](levels[scale] + resized)
        return result

    def _check(self, images: Tensor) -> None:
        height, width = images.shape[-2:]
        if height % self.divisor or width % self.divisor:
            raise InvalidConfig(
                f"images are {height} x {width} px; a ViT-Adapter over patches of {self.pruned.patch_size} px needs multiples of"
                f" {self.divisor}: pad them"
            )


class AdapterPyramid(nn.Module):
    """Applies a feature pyramid network to a ViTAdapter's maps: {"p2": (B,C,h,w), ...} -> the same levels with `channels`.

    It has the same attributes as FeaturePyramid.

    Args:
        dim: As FeaturePyramid's.
        patch_size: As FeaturePyramid's.
        scales: The ViTAdapter's.
        channels: As FeaturePyramid's.
        top_level: Whether to add one more level: the coarsest one subsampled by 2.
    """

    def __init__(self, dim: int, patch_size: int, scales: Sequence[float] = SCALES, channels: int = 256, top_level: bool = True) -> None:
        """Build the network."""
        super().__init__()
        self.strides = level_strides(patch_size, scales, top_level)
        self.channels, self.top = channels, list(self.strides)[-1] if top_level else None
        self.fpn = FeaturePyramidNetwork([dim] * len(scales), channels, extra_blocks=LastLevelMaxPool() if top_level else None)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the levels from fine to coarse."""
        return dict(zip(self.strides, self.fpn(OrderedDict(maps)).values(), strict=True))
