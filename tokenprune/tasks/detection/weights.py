"""Adapts the weights of one detector to another: an encoder without class token or final norm, with an adapter, a cascade of heads."""

import re

from torch import Tensor, nn

from tokenprune.backbones.weights import prefix_counts, resampled

_ENCODER = "backbone.dense.pruned.backbone."
_FEATURES, _PRUNED, _PRIOR = "backbone.", "backbone.dense.pruned.", "backbone.dense.prior."
_STAGE = re.compile(r"(roi_heads\.box_(?:head|predictor))\.\d+\.(.+)")


def adopted(state: dict[str, Tensor], detector: nn.Module) -> dict[str, Tensor]:
    """Return a file's state in a form that a detector can take. A state that has this form already is returned unchanged.

    A file of a detector without adapter gives its encoder and its heads to one with an adapter; adapter and pyramid stay as they are.

    The class token and the final norm are left out if the encoder lacks them, and position codes are resampled. Every stage of a cascade
    starts from the one box head of a file without stages.
    """
    own, state = detector.state_dict(), dict(state)
    tokens = prefix_counts({key.removeprefix(_ENCODER): value for key, value in state.items()})
    for name in ("cls_token", "norm.weight", "norm.bias"):
        if _ENCODER + name not in own:
            state.pop(_ENCODER + name, None)
    codes = state.get(_ENCODER + "pos_embed")
    vit = detector.pruned.backbone
    if codes is not None and getattr(vit, "pos_embed", None) is not None:
        state[_ENCODER + "pos_embed"] = resampled(codes, vit, tokens, getattr(vit, "pretrained_grid", None))
    state = _without_pyramid(state, own)
    single = {key: f"{found[1]}.{found[2]}" for key in own if (found := _STAGE.fullmatch(key)) and key not in state}
    state.update({key: state[source] for key, source in single.items() if source in state})
    return {key: value for key, value in state.items() if key not in single.values()}


def _without_pyramid(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with a detector's own adapter and pyramid in the place of the file's pyramid, if only the detector has an adapter."""
    if any(key.startswith(_PRIOR) for key in state) or not any(key.startswith(_PRIOR) for key in own):
        return state
    around = {key: value for key, value in own.items() if key.startswith(_FEATURES) and not key.startswith(_PRUNED)}
    return {key: value for key, value in state.items() if key.startswith(_PRUNED) or not key.startswith(_FEATURES)} | around
