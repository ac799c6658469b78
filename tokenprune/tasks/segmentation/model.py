"""Builds Segmenter's linear decoder (Strudel et al., 2021) on a pruned ViT: its own head labels every patch (Cropr section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.engine.loss import IGNORED
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.outputs import Outputs

LOGITS = "logits"  # the trait that holds the logits of positions that have left (DToP)


class Segmenter(nn.Module):
    """Labels pixels by a PrunedViT whose head has one output a class.

    Args:
        pruned: The encoder with that head.
    """

    def __init__(self, pruned: PrunedViT) -> None:
        super().__init__()
        self.pruned = pruned

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of pixels (B,K,h,w) of normalised images (B,3,h,w)."""
        outputs = self.pruned.encode(images)
        return self.upsampled(outputs, self.label_logits(outputs), images.shape[-2:])

    def label_logits(self, outputs: Outputs) -> Tensor:
        """Return logits (B,N,K) of every position.

        If the state has a trait `logits` (B,P+N,K), positions that are missing in the map take their logits from it (DToP).
        """
        logits = self.pruned.family.label(outputs.map)
        stored = outputs.state.traits.get(LOGITS)
        if stored is None:
            return logits
        own = stored[:, stored.shape[1] - outputs.state.positions :].to(logits.dtype)
        return logits.where(outputs.present.unsqueeze(-1), own)

    def upsampled(self, outputs: Outputs, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (B,N,K) of the grid, bilinearly upsampled to (B,K,h,w)."""
        grid = logits.transpose(1, 2).unflatten(2, outputs.grid)
        return F.interpolate(grid, size=tuple(size), mode="bilinear", align_corners=False)

    def losses(self, images: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """Return the cross-entropy at full resolution and, in training, the encoder's own losses.

        Args:
            images: Normalised images, (B,3,h,w).
            maps: Classes of pixels, (B,h,w); `IGNORED` for none.
        """
        outputs = self.pruned.encode(images)
        logits = self.upsampled(outputs, self.label_logits(outputs), images.shape[-2:])
        facts = {"images": images, "patches": patch_classes(maps, outputs.grid)}
        return {"loss_seg": pixel_loss(logits, maps), **self.pruned.losses(outputs, **facts)}

    def head_macs(self, positions: int) -> float:
        """Return the MACs of the head at N positions: N C K."""
        return positions * self.pruned.family.head_macs()

    def deploy(self) -> "Segmenter":
        """Return a copy for inference, whose selectors lack the parts that only training needs (Cropr section 3.4)."""
        return Segmenter(self.pruned.deploy()).eval()

    def dense(self) -> "Segmenter":
        """Return the same model with nothing dropped; both share their weights."""
        from tokenprune.engine.prune import prune

        return Segmenter(prune(self.pruned.backbone)).eval()


def pixel_loss(logits: Tensor, maps: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B,K,h,w) over the pixels of maps (B,h,w) that have a class, or 0 if none has."""
    total = F.cross_entropy(logits.float(), maps, ignore_index=IGNORED, reduction="sum")
    return total / (maps != IGNORED).sum().clamp(min=1)


def patch_classes(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return labels (B,N) of a grid (H,W): maps (B,h,w) resized to it by nearest neighbour (Cropr section 3.2)."""
    return F.interpolate(maps.unsqueeze(1).to(torch.float32), size=tuple(grid), mode="nearest").squeeze(1).long().flatten(1)
