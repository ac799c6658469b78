"""What families of Hugging Face's transformers share: a vision tower, alone or inside a whole model that answers through a head."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tokenprune.engine.blocks.base import layer_macs
from tokenprune.engine.blocks.family import Family, mean_of, weighted_sum
from tokenprune.engine.indexing import sized
from tokenprune.engine.outputs import Outputs
from tokenprune.errors import InvalidConfig, UnsupportedBackbone

IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
_HEADS = ("classifier", "cls_classifier", "distillation_classifier")


class Given(nn.Module):
    """Stands in the place of a tower and returns a ready output, whatever it is called with."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        """Return the output."""
        return self.output


class HfFamily(Family):
    """The adapter of one vision tower of transformers, `kind`, and of the models that it stands in.

    wholes: {class of a model: (attribute of its tower, what its own code reads of it)}. Read are `prefix` (the class token), `mean` (class
    token and mean of the patch tokens, or the mean alone), or `features` (the tower's own output). tower: the tower of the model at hand.
    norms_sequence: whether `last_hidden_state` is behind the final norm.
    """

    wholes: ClassVar[Mapping[type[nn.Module], tuple[str, str]]]
    norms_sequence: ClassVar[bool] = True
    resizes: ClassVar[bool] = False  # position codes without being asked

    def __init__(self, model: Any) -> None:
        self.inside, self.reads = self.place(model)
        self.tower = self.tower_of(model)
        self.dim = model.config.hidden_size if self.inside is None else self.tower.config.hidden_size
        self.prefix = self.specials(self.tower)
        self.has_cls = self.prefix > 0
        super().__init__(model)
        if self.steps[0] != self.steps[1]:
            raise UnsupportedBackbone(f"patches of {self.steps[0]} x {self.steps[1]} pixels are no squares, which tokenprune takes alone")
        self.patch = self.steps[0]

    @classmethod
    def takes(cls, model: nn.Module) -> bool:
        """Tell whether a model is of this family."""
        return isinstance(model, (cls.kind, *cls.wholes))

    @classmethod
    def place(cls, model: nn.Module) -> tuple[str | None, str]:
        """Return the attribute of the tower in a model, None for the tower itself, and what is read of it."""
        return next((found for whole, found in cls.wholes.items() if isinstance(model, whole)), (None, "features"))

    @classmethod
    def tower_of(cls, model: Any) -> Any:
        """Return the tower of a model."""
        inside = cls.place(model)[0]
        return model if inside is None else getattr(model, inside)

    @classmethod
    def layers(cls, model: Any) -> nn.ModuleList:
        """Return the blocks of a model's tower."""
        return cls.blocks_of(cls.tower_of(model))

    @classmethod
    @abstractmethod
    def blocks_of(cls, tower: Any) -> nn.ModuleList:
        """Return the blocks of a tower."""

    @classmethod
    @abstractmethod
    def specials(cls, tower: Any) -> int:
        """Return P of a tower."""

    @classmethod
    @abstractmethod
    def stem_of(cls, tower: Any) -> nn.Conv2d:
        """Return the convolution that makes patch tokens."""

    @classmethod
    def parts(cls, model: Any) -> tuple[Any, ...]:
        """Return tower, stem, and of each block itself, its attention and its MLP, with forwards that were set on instances."""
        tower = cls.tower_of(model)
        found: list[Any] = [tower, cls.stem_of(tower)]
        for block in cls.blocks_of(tower):
            attn = getattr(block, str(cls.adapters[0].names["attn"]), None)  # type: ignore[attr-defined]  # adapters are HfBlocks
            found += [block, attn, getattr(block, "mlp", None), vars(block).get("forward"), vars(attn).get("forward") if attn else None]
        return tuple(found)

    @classmethod
    def refusal(cls, model: Any) -> str | None:
        """Return why a model of this family cannot be run, or None."""
        tower, whole = cls.tower_of(model), next((c for c in (*cls.wholes, cls.kind) if isinstance(model, c)), cls.kind)
        for part, own in ((model, whole), (tower, cls.kind)):
            if not isinstance(part, own) or type(part).forward is not own.forward or "forward" in vars(part):
                return f"its class {type(part).__name__} has a forward of its own, which would be passed over; known: {own.__name__}'s"
        name = tower.config._attn_implementation
        if name not in IMPLEMENTATIONS:
            return f"its attention is set to {name!r}; allowed: {', '.join(IMPLEMENTATIONS)} (attn_implementation=... of from_pretrained)"
        return next((reason for block in cls.blocks_of(tower) if (reason := cls._block_refusal(block))), None)

    @property
    def own_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the images that the model was made for: those of its position codes."""
        size = getattr(self.tower.embeddings, "image_size", None) or self.tower.embeddings.patch_embeddings.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def own_positions(self) -> int:
        """Return N of the model's own image size."""
        rows, columns = self.positions(*self.own_size)
        return rows * columns

    @property
    def steps(self) -> tuple[int, int]:
        """Return how many pixels lie between positions, downwards and to the right."""
        down, right = self.stem_of(self.tower).stride
        return down, right

    @property
    def classes(self) -> int:
        """Return the number of outputs of the classification head, 0 without one."""
        return max((int(getattr(head, "out_features", 0)) for head in self.heads), default=0)

    @property
    def answers_by_prefix(self) -> bool:
        """Tell whether `classify` reads prefix tokens alone."""
        return self.reads == "prefix" or (self.reads == "features" and self.has_cls)

    @property
    def recomputes(self) -> bool:
        """Tell whether the model is set to compute its blocks again in the backward pass, which transformers does in training alone."""
        return self.model.training and any(block.gradient_checkpointing for block in self.blocks_of(self.tower))

    def embedded(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, None]:
        """Return prefix and patch tokens (B,P+N,C) of images (B,3,h,w) and no rotary table.

        Raises:
            InvalidConfig: Images are of another size than the position codes, and these are not to be resized.
        """
        own, size = self.own_size, (sized(images.shape[-2]), sized(images.shape[-1]))
        if size != own and not (resize_codes or self.resizes):
            raise InvalidConfig(
                f"images are {size[0]} x {size[1]} pixels, and the position codes of {type(self.model).__name__} are for"
                f" {own[0]} x {own[1]}; resize the images, or give interpolate_pos_encoding=True (resize_codes=True to `encode`)"
            )
        return self.entered(images.to(self.stem_of(self.tower).weight.dtype), resize_codes), None

    @abstractmethod
    def entered(self, images: Tensor, resize_codes: bool) -> Tensor:
        """Return what enters block 0 (B,P+N,C), made by the tower's own embedding."""

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid (H,W) of an image of that size in pixels."""
        return sized(height) // self.steps[0], sized(width) // self.steps[1]

    def embed_macs(self, positions: int) -> float:
        """Return the MACs of the patch embedding."""
        conv = self.stem_of(self.tower)
        return float(positions * conv.weight.numel())

    @abstractmethod
    def pooled(self, prefix: Tensor, tokens: Tensor, live: Tensor | None) -> Tensor | None:
        """Return the tower's `pooler_output` (B,C) of normed prefix and live tokens; None without a pooler."""

    def output(self, prefix: Tensor, tokens: Tensor, live: Tensor | None, mass: Tensor | None) -> BaseModelOutputWithPooling:
        """Return an output of the tower of which the model's own head reads what it has to; the arguments are those of `classify`.

        The head's mean of tokens of which some count more than others, or not at all, is the mean of one token: theirs.
        """
        prefix = prefix[:, prefix.shape[1] - self.prefix :]
        if self.reads == "prefix":
            return BaseModelOutputWithPooling(last_hidden_state=prefix)
        if self.reads == "mean":
            if live is not None or mass is not None:
                tokens = mean_of(*weighted_sum(tokens, live, mass)).unsqueeze(1)
            return BaseModelOutputWithPooling(last_hidden_state=torch.cat([prefix, tokens], 1))
        pooled = self.pooled(prefix, tokens, live)
        return BaseModelOutputWithPooling(last_hidden_state=prefix, pooler_output=pooled)

    def classify(self, prefix: Tensor, tokens: Tensor, live: Tensor | None, mass: Tensor | None = None) -> Tensor:
        """Return the model's answer: logits of its head, the image's embedding of a CLIP or SigLIP model, or a tower's pooled output.

        A tower without pooler answers with its class token, or with the mean of its tokens where it has none. Arguments as in `Family`.
        """
        output = self.output(prefix, tokens, live, mass)
        if self.inside is not None:
            return _answer(self.standing_in(Given(output)))
        if output.pooler_output is not None:
            return output.pooler_output
        if self.has_cls:
            return prefix[:, prefix.shape[1] - self.prefix]
        return mean_of(*weighted_sum(tokens, live, mass))

    def sequence(self, outputs: Outputs, map_: Tensor) -> Tensor:
        """Return `last_hidden_state` (B,P+N,C) of a pass, every position in its own place.

        Args:
            outputs: Of the pass.
            map_: (B,N,C), as `PrunedViT.view` shows the state of the outputs, before the final norm.
        """
        prefix, tokens = (outputs.prefix, outputs.map) if self.norms_sequence else (outputs.state.prefix, map_)
        return torch.cat([prefix[:, prefix.shape[1] - self.prefix :], tokens], 1)

    def standing_in(self, tower: nn.Module) -> Any:
        """Return the model with another module in the place of its tower; everything else is the model's own, not a copy."""
        model = copy.copy(self.model)
        model._modules = {**self.model._modules, str(self.inside): tower}
        return model

    def label(self, tokens: Tensor) -> Tensor:
        """Return logits (B,K,classes) of normed tokens (B,K,C), each by itself, through the model's own head.

        Raises:
            UnsupportedBackbone: There is no head, or it reads class token and mean together.
        """
        heads = [head for head in self.heads if getattr(head, "in_features", None) == self.dim]
        if not heads:
            raise UnsupportedBackbone(f"{type(self.model).__name__} has no head that reads one token; models with a linear classifier do")
        return torch.stack([head(tokens) for head in heads]).mean(0)

    def head_macs(self) -> float:
        """Return the MACs of what follows the blocks: heads, pooler and projection; attention pooling (SigLIP) is not counted."""
        last = [getattr(self.tower, "pooler", None), getattr(self.model, "visual_projection", None)]
        return float(sum(layer_macs(part) for part in (*self.heads, *last) if isinstance(part, nn.Module)))

    @property
    def heads(self) -> list[nn.Module]:
        """Return the classification heads."""
        return [head for name in _HEADS if isinstance(head := getattr(self.model, name, None), nn.Module)]


def _answer(model: Any) -> Tensor:
    """Return the tensor that a model answers with."""
    if hasattr(model, "get_image_features"):
        return model.get_image_features(pixel_values=None, return_dict=True).pooler_output
    answer = model.forward(pixel_values=None, return_dict=True)
    return answer.logits if hasattr(answer, "logits") else answer.image_embeds
