"""`compile`: torch.compile in the way that suits a method."""

from typing import Any

from torch import nn

from tokenprune.engine.model import PrunedViT
from tokenprune.errors import IncompatiblePairing, InvalidConfig, UnsupportedBackbone

MODES = ("auto", "whole", "blocks")


def compile(model: PrunedViT, mode: str = "auto", **options: Any) -> PrunedViT:  # noqa: A001 as torch's own
    """Compile a pruned model in place, in its present mode of training or evaluation, and return it.

    Parameters, their names and the results stay as they are, up to rounding. The programs are made at the first pass.

    Args:
        model: The pruned model.
        mode: `whole` makes one program of `model(images)`. It is for methods whose counts are fixed, and for training, where all tokens
            are computed. `blocks` makes one program for each part of a block. All blocks of a kind share them, for any number of tokens,
            so that it is made in seconds. Decisions between them run as they are, in `encode`, too. `auto` is `whole` where it can be, and
            else `blocks`.
        options: Arguments of torch.compile, e.g. backend.

    Raises:
        UnsupportedBackbone: It is no pruned model.
        InvalidConfig: There is no such mode.
        IncompatiblePairing: `whole`, and only the images say how many tokens stay, or the model is one of transformers.
    """
    if not isinstance(model, PrunedViT):
        got = f"a {type(model).__name__}"
        also = "; give the pruned model inside of it" if isinstance(model, nn.Module) else ""
        raise UnsupportedBackbone(f"tokenprune.compile got {got}; allowed: what tokenprune.prune returned{also}")
    if mode not in MODES:
        raise InvalidConfig(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
    if mode == "whole" and model.asks_host:
        raise IncompatiblePairing(
            "mode is 'whole', and with this selector only the images say how many tokens stay, so that no single program exists; allowed:"
            " mode='blocks', or counts that are fixed (selector option eval_mode='topk' where there is one)"
        )
    if mode == "whole" and not model.traceable:
        raise IncompatiblePairing(
            f"mode is 'whole', and the code of {type(model.backbone).__name__} around its tower cannot be traced; allowed: mode='blocks'"
        )
    if mode == "blocks" or (mode == "auto" and (model.asks_host or not model.traceable)):
        model.compile_blocks(options)
    else:
        nn.Module.compile(model, fullgraph=True, **options)
    return model
