"""Families of Hugging Face's transformers: ViT, DeiT, DINOv2 without and with registers, and the vision towers of CLIP and SigLIP."""

from typing import Any

from torch import Tensor, nn
from transformers.models.clip import modeling_clip as clip
from transformers.models.deit import modeling_deit as deit
from transformers.models.dinov2 import modeling_dinov2 as dinov2
from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers as registers
from transformers.models.siglip import modeling_siglip as siglip
from transformers.models.vit import modeling_vit as vit

from tokenprune.engine.blocks import hf_block as block
from tokenprune.engine.blocks.hf_family import HfFamily


class HfViT(HfFamily):
    """ViT: a class token, a pooler with tanh behind it."""

    kind, adapters = vit.ViTModel, (block.HfViTBlock,)
    wholes = {vit.ViTForImageClassification: ("vit", "prefix")}

    @classmethod
    def blocks_of(cls, tower: Any) -> nn.ModuleList:
        """Return the blocks of a tower."""
        return tower.layers

    @classmethod
    def specials(cls, tower: Any) -> int:
        """Return P: the class token."""
        return 1

    @classmethod
    def stem_of(cls, tower: Any) -> nn.Conv2d:
        """Return the convolution that makes patch tokens."""
        return tower.embeddings.patch_embeddings.projection

    def entered(self, images: Tensor, resize_codes: bool) -> Tensor:
        """Return what enters block 0."""
        return self.tower.embeddings(images, interpolate_pos_encoding=resize_codes)

    def norm(self, x: Tensor) -> Tensor:
        """Return the final norm of x (..., C)."""
        return self.tower.layernorm(x)

    def pooled(self, prefix: Tensor, tokens: Tensor, live: Tensor | None) -> Tensor | None:
        """Return the pooler's output for the class token; None for a tower without pooler."""
        return None if self.tower.pooler is None else self.tower.pooler(prefix)


class HfDeiT(HfViT):
    """DeiT: a class and a distillation token. The model with two heads answers with the mean of both."""

    kind, adapters = deit.DeiTModel, (block.HfDeiTBlock,)
    wholes = {deit.DeiTForImageClassification: ("deit", "prefix"), deit.DeiTForImageClassificationWithTeacher: ("deit", "prefix")}

    @classmethod
    def specials(cls, tower: Any) -> int:
        """Return P: class and distillation token."""
        return 2


class HfDinov2(HfViT):
    """DINOv2: its head reads the class token and the mean of the patch tokens; position codes are resized without being asked."""

    kind, adapters = dinov2.Dinov2Model, (block.HfDinov2Block,)
    wholes = {dinov2.Dinov2ForImageClassification: ("dinov2", "mean")}
    resizes = True

    @classmethod
    def blocks_of(cls, tower: Any) -> nn.ModuleList:
        """Return the blocks of a tower."""
        return tower.encoder.layer

    def entered(self, images: Tensor, resize_codes: bool) -> Tensor:
        """Return what enters block 0."""
        return self.tower.embeddings(images)

    def pooled(self, prefix: Tensor, tokens: Tensor, live: Tensor | None) -> Tensor:
        """Return the class token."""
        return prefix[:, 0]


class HfRegisters(HfDinov2):
    """DINOv2 with registers, which stand behind the class token."""

    kind, adapters = registers.Dinov2WithRegistersModel, (block.HfRegistersBlock,)
    wholes = {registers.Dinov2WithRegistersForImageClassification: ("dinov2_with_registers", "mean")}

    @classmethod
    def specials(cls, tower: Any) -> int:
        """Return P: class token and registers."""
        return 1 + tower.config.num_register_tokens


class HfClip(HfFamily):
    """CLIP's vision tower. Its final norm is for the class token alone: `last_hidden_state` is in front of it, and maps are behind it.

    CLIPForImageClassification reads the mean of patch tokens in front of the norm; its maps are there, too.
    """

    kind, adapters = clip.CLIPVisionModel, (block.HfClipBlock,)
    norms_sequence = False
    wholes = {
        clip.CLIPVisionModelWithProjection: ("vision_model", "features"),
        clip.CLIPForImageClassification: ("vision_model", "mean"),
        clip.CLIPModel: ("vision_model", "features"),
    }

    @classmethod
    def blocks_of(cls, tower: Any) -> nn.ModuleList:
        """Return the blocks of a tower."""
        return tower.encoder.layers

    @classmethod
    def specials(cls, tower: Any) -> int:
        """Return P: the class token."""
        return 1

    @classmethod
    def stem_of(cls, tower: Any) -> nn.Conv2d:
        """Return the convolution that makes patch tokens."""
        return tower.embeddings.patch_embedding

    def entered(self, images: Tensor, resize_codes: bool) -> Tensor:
        """Return what enters block 0, behind CLIP's norm in front of the blocks."""
        return self.tower.pre_layrnorm(self.tower.embeddings(images, interpolate_pos_encoding=resize_codes))

    def norm(self, x: Tensor) -> Tensor:
        """Return the final norm of x (..., C); x itself for a head that reads what is in front of it."""
        return x if self.reads == "mean" else self.tower.post_layernorm(x)

    def pooled(self, prefix: Tensor, tokens: Tensor, live: Tensor | None) -> Tensor:
        """Return the class token behind the final norm."""
        return prefix[:, 0]


class HfSiglip(HfFamily):
    """SigLIP's vision tower: no class token, and a learned query that pools all tokens by attention.

    The query sees live tokens only. A merged token counts once there, as in other poolings by attention.
    """

    kind, adapters = siglip.SiglipVisionModel, (block.HfSiglipBlock,)
    wholes = {siglip.SiglipForImageClassification: ("vision_model", "mean"), siglip.SiglipModel: ("vision_model", "features")}

    @classmethod
    def blocks_of(cls, tower: Any) -> nn.ModuleList:
        """Return the blocks of a tower."""
        return tower.encoder.layers

    @classmethod
    def stem_of(cls, tower: Any) -> nn.Conv2d:
        """Return the convolution that makes patch tokens."""
        return tower.embeddings.patch_embedding

    @classmethod
    def specials(cls, tower: Any) -> int:
        """Return P: there are none."""
        return 0

    def entered(self, images: Tensor, resize_codes: bool) -> Tensor:
        """Return what enters block 0."""
        return self.tower.embeddings(images, interpolate_pos_encoding=resize_codes)

    def norm(self, x: Tensor) -> Tensor:
        """Return the final norm of x (..., C)."""
        return self.tower.post_layernorm(x)

    def pooled(self, prefix: Tensor, tokens: Tensor, live: Tensor | None) -> Tensor | None:
        """Return what the learned query makes of the live tokens; None for a tower without it."""
        if not self.tower.use_head:
            return None
        head = self.tower.head
        if live is None:
            return head(tokens)
        query = head.probe.repeat(len(tokens), 1, 1)
        x = head.attention(query, tokens, tokens, key_padding_mask=~live)[0]
        x = x.where(live.any(1)[:, None, None], 0)  # of an image without any token left (AdaViT) the query reads nothing
        return (x + head.mlp(head.layernorm(x)))[:, 0]


FAMILIES: tuple[type[HfFamily], ...] = (HfViT, HfDeiT, HfRegisters, HfDinov2, HfClip, HfSiglip)
