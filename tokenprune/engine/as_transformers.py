"""A pruned model of Hugging Face's transformers, called as the model itself is called."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tokenprune.engine.blocks.module_hooks import HookCall
from tokenprune.engine.model import PrunedViT
from tokenprune.errors import IncompatiblePairing, InvalidConfig

if TYPE_CHECKING:
    from tokenprune.engine.blocks.hf_family import HfFamily

_NOT_GIVEN = {
    "output_hidden_states": "hidden states of single blocks, because tokens leave on the way; `model.run(model.start(images), 0, BLOCK)`"
    " gives the state in front of a block",
    "output_attentions": "attention maps of single blocks; tokenprune.measure.attention has what selectors read",
    "bool_masked_pos": "masked image modelling; leave it out",
    "attention_mask": "masks of its own, because which tokens are seen is decided on the way; leave it out",
}
_IGNORED = ("num_items_in_batch",)  # transformers' Trainer gives it to every model, for the loss


class PrunedTransformer(PrunedViT):
    """A vision model of transformers run block by block with tokens dropped on the way; build it with `prune`.

    It takes what the model's own forward takes and returns the model's own output class. A tower's `last_hidden_state` has every position
    in its own place, exact zeros where nothing is held; `encode` says which (`Outputs.present`). Everything but the tower, heads and losses
    and a text tower, is the model's own code.
    """

    @property
    def hf(self) -> "HfFamily":
        """Return the adapter of the backbone, see `PrunedViT.family`."""
        return cast("HfFamily", self.family)

    @property
    def config(self) -> Any:
        """Return the model's own configuration."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Return the device of the parameters."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the parameters."""
        return self.backbone.dtype

    @property
    def num_classes(self) -> int:
        """Return the number of outputs of the classification head, 0 without one."""
        return self.family.classes

    @property
    def num_features(self) -> int:
        """Return C, the width of a token."""
        return self.family.dim

    def forward(self, *given: Any, **named: Any) -> Any:
        """Return what the model's own forward returns, of its class; the arguments are those of the model's own forward.

        Raises:
            InvalidConfig: Hidden states, attention maps or masks of tokens are asked for.
        """
        if torch.compiler.is_compiling() and self.asks_host:
            return self._untraced(self.forward, *given, **named)  # type: ignore[call-arg]  # torch types no method here
        family = self.hf
        if family.inside is not None:
            return family.standing_in(_Tower(self))(*given, **named)
        call = HookCall.of(self.backbone)
        if call is None:
            return self._tower(*given, **named)
        images = named.pop("pixel_values") if not given else given[0]
        return call.leave(self._tower(call.enter(images), *given[1:], **named))

    def get_image_features(self, *given: Any, **named: Any) -> Any:
        """Return what the method of that name of a CLIP or SigLIP model returns.

        Raises:
            IncompatiblePairing: The model has no such method.
        """
        return self._method("get_image_features", given, named)

    def get_text_features(self, *given: Any, **named: Any) -> Any:
        """Return what the method of that name of a CLIP or SigLIP model returns; text is not pruned.

        Raises:
            IncompatiblePairing: The model has no such method.
        """
        return self._method("get_text_features", given, named)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that take no weight decay: what is added to tokens, as in timm."""
        words = ("cls_token", "class_embedding", "position_embedding", "distillation_token", "register_tokens", "mask_token")
        return {name for name, _ in self.named_parameters() if name.startswith("backbone.") and any(word in name for word in words)}

    def get_classifier(self) -> nn.Module:
        """Return the classification head, an identity where there is none, or all heads of a DeiT with two."""
        heads = self.hf.heads
        return heads[0] if len(heads) == 1 else nn.ModuleList(heads) if heads else nn.Identity()

    def reset_classifier(self, num_classes: int, *_: Any, **__: Any) -> None:
        """Refuse a new head.

        Raises:
            InvalidConfig: Always; transformers makes heads with the model.
        """
        raise InvalidConfig(
            f"transformers makes heads with the model: load it with from_pretrained(..., num_labels={num_classes},"
            " ignore_mismatched_sizes=True), then prune it"
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks again in the backward pass instead of keeping their activations."""
        names = [f"{kind}_checkpointing_{'enable' if enable else 'disable'}" for kind in ("activation", "gradient")]
        next(getattr(self.backbone, name) for name in names if hasattr(self.backbone, name))()  # its name differs between versions

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of the names of parameters, by depth, for layer-wise learning rates.

        Args:
            coarse: Whether the groups are coarse; they are the same here.
        """
        return {"stem": r"^backbone\..*embeddings", "blocks": [(r"^backbone\..*\blayers?\.(\d+)", None), (r"^backbone\..*norm", (99999,))]}

    def _method(self, name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        if not hasattr(self.backbone, name):
            raise IncompatiblePairing(f"{type(self.backbone).__name__} has no {name}; CLIPModel and SiglipModel have it")
        return getattr(self.hf.standing_in(_Tower(self)), name)(*given, **named)

    def _tower(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        **named: Any,
    ) -> Any:
        """Return the tower's output for images; the arguments are those of the tower's own forward."""
        family = self.hf
        refuse_unmade(named, family.tower.config)
        resize = bool(interpolate_pos_encoding)
        if pixel_values is None:
            raise InvalidConfig("pixel_values is None; allowed: images (B,3,h,w), normalised as the model wants them")
        if family.reads != "features":
            return family.output(*self._pass(pixel_values, resize))
        outputs = self.encode(pixel_values, resize)
        output = family.output(*self.read(outputs))
        output.last_hidden_state = family.sequence(outputs, self.view(outputs.state)[0])
        as_dict = getattr(family.tower.config, "return_dict", True) if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


class _Tower(nn.Module):
    """Stands in the place of a model's tower and runs the pruned one."""

    def __init__(self, pruned: PrunedTransformer) -> None:
        super().__init__()
        self.__dict__["pruned"] = pruned  # no child: it holds the model that this stands in

    def forward(self, *given: Any, **named: Any) -> Any:
        """Return the tower's output."""
        return self.__dict__["pruned"]._tower(*given, **named)


def refuse_unmade(named: Mapping[str, Any], config: Any) -> None:
    """Refuse arguments of a tower that ask for what a pruned one does not make.

    Args:
        named: The arguments.
        config: The tower's configuration, which may ask for the same.

    Raises:
        InvalidConfig: There is one.
    """
    for name, reason in _NOT_GIVEN.items():
        asked = named.get(name)
        if asked is None and name.startswith("output_"):
            asked = getattr(config, name, None)
        if asked is not None and asked is not False:
            raise InvalidConfig(f"{name} is {asked if not isinstance(asked, Tensor) else 'a tensor'}; a pruned model gives no {reason}")
    unknown = [name for name in named if name not in (*_NOT_GIVEN, *_IGNORED)]
    if unknown:
        raise InvalidConfig(
            f"a pruned vision tower has no argument {', '.join(unknown)}; allowed: pixel_values, interpolate_pos_encoding, return_dict"
        )
