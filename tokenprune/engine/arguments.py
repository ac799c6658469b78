"""Checks of what people give to `prune` and to a pruned model, before anything else sees it."""

import inspect
from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.errors import IncompatiblePairing, InvalidConfig, UnsupportedBackbone, hint
from tokenprune.registry import get, name_in, names, options_of

Spec = str | Mapping[str, Any]
_AXES = ("selector", "treatment", "schedule")
_OTHERS = ("cls", "execution", "losses", "positions", "classes")


def completed(spec: Spec | None, published: Spec, kind: str) -> Spec:
    """Return a treatment or schedule with the options that the selector's paper gives it.

    Args:
        spec: None for that of the paper. Options without a `name`, and those under the name of the paper's, change the paper's. Another
            name stands for itself.
        published: That of the paper.
        kind: `treatment` or `schedule`.

    Raises:
        InvalidConfig: It is neither a name nor a mapping.
    """
    usual = {"name": published} if isinstance(published, str) else published
    if spec is None:
        return usual
    check_spec(kind, spec)
    given = {"name": spec} if isinstance(spec, str) else spec
    return {**usual, **given} if given.get("name", usual["name"]) == usual["name"] else spec


def explicit(kind: str, spec: Spec) -> dict[str, Any]:
    """Return a treatment or schedule with each of its options, so that `completed` adds none: one that is not given has its own default.

    Raises:
        UnknownPlugin: There is none of that name.
        InvalidConfig: It is neither a name nor a mapping with `name`.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    parameters = inspect.signature(get(kind, name_in(kind, given))).parameters
    usual = {name: p.default for name, p in parameters.items() if isinstance(p.default, (str, int, float, tuple, NoneType))}
    return {**usual, **given}


def check_spec(kind: str, spec: Any) -> None:
    """Refuse a selector, treatment or schedule that is neither a name nor a mapping.

    Raises:
        InvalidConfig: It is something else.
    """
    if isinstance(spec, (str, Mapping)):
        return
    example = (
        f'{kind}={{"keep_rate": {spec}}}' if isinstance(spec, float) else f'{kind}="NAME" or {kind}={{"name": "NAME", "option": value}}'
    )
    raise InvalidConfig(f"{kind} is {spec!r}; allowed: a name, or a mapping with `name` and options, e.g. {example}")


def check_among(name: str, given: Any, allowed: Collection[str]) -> None:
    """Refuse a value that is none of the allowed ones.

    Raises:
        IncompatiblePairing: It is none.
    """
    if given not in allowed:
        raise IncompatiblePairing(f"{name} is {given!r}; allowed: {', '.join(allowed)}")


def check_model(model: Any) -> None:
    """Refuse what is no model.

    Raises:
        UnsupportedBackbone: It is no module.
    """
    if isinstance(model, nn.Module):
        return
    made = f"timm.create_model({model!r}, pretrained=True)" if isinstance(model, str) else "timm.create_model(NAME, pretrained=True)"
    raise UnsupportedBackbone(f"the model is {model!r}, a {type(model).__name__}; allowed: a model itself, e.g. {made}")


def check_numbers(positions: Any, classes: Any) -> None:
    """Refuse numbers of positions and classes that are none.

    Raises:
        InvalidConfig: They are no whole numbers, or below their least value.
    """
    problems = [
        f"{name} is {value!r}; allowed: None or a whole number from {least}"
        for name, value, least in (("positions", positions, 1), ("classes", classes, 0))
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least)
    ]
    if problems:
        raise InvalidConfig(problems)


def check_losses(losses: Any) -> None:
    """Refuse losses that are not {name: options}.

    Raises:
        InvalidConfig: They are something else.
    """
    wanted = 'allowed: {name: options}, e.g. {"ratio": {"weight": 2.0}}'
    if not isinstance(losses, Mapping):
        raise InvalidConfig(f"losses is {losses!r}; {wanted}")
    wrong = [f"losses[{name!r}] is {options!r}; {wanted}" for name, options in losses.items() if not isinstance(options, Mapping)]
    if wrong:
        raise InvalidConfig(wrong)


def refuse_unknown(unknown: Mapping[str, Any], selector: Any) -> None:
    """Refuse keyword arguments that `prune` does not have, with where their values go.

    Raises:
        InvalidConfig: There is one.
    """
    problems = [f"prune has no argument {name!r}.{_place(name, value, selector)}" for name, value in unknown.items()]
    if problems:
        raise InvalidConfig([*problems[:-1], f"{problems[-1]} Arguments: model, {', '.join((*_AXES, *_OTHERS))}"])


def _place(name: str, value: Any, selector: Any) -> str:
    """Return where a value goes that was given as an argument of its own: into an option of one of the axes."""
    if name == "method":
        return f" Write selector={value!r}: it brings the treatment and the schedule of its paper."
    known = selector if isinstance(selector, str) else selector.get("name") if isinstance(selector, Mapping) else None
    if known in names("selector"):
        published = get("selector", known).published
        named = {"selector": known} | {axis: spec if isinstance(spec, str) else spec["name"] for axis, spec in published.items()}
        for axis, plugin in named.items():
            if axis in _AXES and name in options_of(axis, plugin):
                given = {"name": known, name: value} if axis == "selector" else {name: value}
                return f" Write {axis}={given!r}."
    return hint(name, (*_AXES, *_OTHERS))


def check_images(images: Any) -> None:
    """Refuse what is no batch of images.

    Raises:
        InvalidConfig: It is no tensor (B,C,h,w) of floating-point numbers.
    """
    if isinstance(images, Tensor) and images.dim() == 4 and images.is_floating_point():
        return
    got = f"a tensor {tuple(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
    more = "; add the batch: images[None]" if isinstance(images, Tensor) and images.dim() == 3 else ""
    more = "; images.float() / 255, then normalise" if isinstance(images, Tensor) and images.dtype == torch.uint8 else more
    raise InvalidConfig(f"images are {got}; allowed: a floating-point tensor (B,3,h,w), normalised as the model wants it{more}")
