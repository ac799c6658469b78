"""Defines the conventions of a detector's evaluation, in which mmdetection and Detectron2 differ; readable without Detectron2."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tokenprune.registry import get, name_in, names

OWN, RELEASED = "own", "released"
# Allowed values of each convention. The first is Detectron2's and this project's, the second the one of the authors' evaluation.
CHOICES = {
    "resize": ("pillow", "opencv"),
    "sizes": ("two_steps", "one_factor"),
    "clamp": ("above", "both"),
    "rpn_scores": ("logit", "sigmoid"),
    "nms": ("input", "original"),
    "gates": ("method", "drawn"),
    "dtype": ("float32", "half", "float16", "bfloat16"),
}
_RELEASED_DRAWS = 3
# Remarks of a result row on what differs from Detectron2's conventions.
_WORDS = {
    "resize": "pictures resized as OpenCV does",
    "sizes": "both sides rounded from one factor",
    "clamp": "changes of a box's size clamped on both sides",
    "rpn_scores": "proposals sorted by sigmoid",
    "nms": "NMS on boxes in pixels of the original picture, which are neither clipped nor dropped afterwards",
}


@dataclass(frozen=True)
class ViewConfig:
    """Sets the conventions of evaluation one by one. None takes the one that `task.evaluation` says.

    Args:
        resize: `pillow` (bilinear, averages when it makes a picture smaller) or `opencv` (bilinear between two pixels a side).
        sizes: `two_steps` (the short side first, then the long one, as Detectron2) or `one_factor` (both sides from one factor, as mmcv).
        clamp: Whether changes of a box's width and height are clamped `above` only, or on `both` sides.
        rpn_scores: Whether the RPN sorts proposals by `logit` or by `sigmoid`, which is 1 for all large logits.
        nms: Whether the last NMS sees boxes in pixels of the `input`, which are clipped to the picture in the end, and empty ones
            dropped; or boxes in pixels of the `original` picture, to which nothing is done afterwards.
        gates: `method` as the selector's own settings say, or `drawn` at random whatever these say, as the authors' code does at test time
            where it has gates.
        draws: How often drawn gates are drawn anew, each time with the next seed; the numbers are the mean over the draws.
        dtype: `float32`; `float16` or `bfloat16` by autocast; `half` for float16 on a GPU and float32 on a CPU.
    """

    resize: str | None = None
    sizes: str | None = None
    clamp: str | None = None
    rpn_scores: str | None = None
    nms: str | None = None
    gates: str | None = None
    draws: int | None = None
    dtype: str | None = None


def resolved(view: ViewConfig, evaluation: str) -> ViewConfig:
    """Return the conventions without any None.

    Args:
        view: Those that are set one by one.
        evaluation: `own` or `released`, for the others.
    """
    place = int(evaluation == RELEASED)
    base: dict[str, Any] = {name: allowed[place] for name, allowed in CHOICES.items()} | {"draws": _RELEASED_DRAWS if place else 1}
    return replace(view, **{f.name: base[f.name] for f in fields(view) if getattr(view, f.name) is None})


def view_problems(view: ViewConfig, evaluation: str, detector: str, soft_nms: float | None) -> list[str]:
    """Return what is wrong with the conventions of a task; [] if nothing is."""
    if evaluation not in (OWN, RELEASED):
        return [f"task.evaluation is {evaluation!r}, allowed are {OWN}, {RELEASED}"]
    given = {name: getattr(view, name) for name in CHOICES}
    wrong = [(name, value) for name, value in given.items() if value is not None and value not in CHOICES[name]]
    problems = [f"task.view.{name} is {value!r}, allowed are {', '.join(CHOICES[name])}" for name, value in wrong]
    if view.draws is not None and view.draws < 1:
        problems.append(f"task.view.draws is {view.draws}, allowed are 1 and more")
    if resolved(view, evaluation).nms == "original" and (detector != "mask" or soft_nms is not None):
        problems.append(
            f"task.view.nms is 'original' (task.evaluation={evaluation}) with task.detector={detector} and task.heads.soft_nms={soft_nms};"
            " allowed with it: detector mask without soft-NMS. Set task.view.nms=input"
        )
    return problems


def notes_of(view: ViewConfig, draws: bool) -> tuple[str, ...]:
    """Return the remarks that a result row needs on resolved conventions, in one line; () for Detectron2's.

    Args:
        view: The conventions.
        draws: Whether the model has gates that are drawn.
    """
    found = [words for name, words in _WORDS.items() if getattr(view, name) != CHOICES[name][0]]
    found += [f"gates drawn {view.draws} times, the numbers are the mean"] if draws and (view.draws or 1) > 1 else []
    dtypes = {"half": "float16 on a GPU, float32 on a CPU"}
    found += [f"precision: {dtypes.get(view.dtype, view.dtype)}"] if view.dtype not in (None, "float32") else []
    return (f"evaluation: {'; '.join(found)}",) if found else ()


def drawing(run: Mapping[str, Any], view: ViewConfig) -> dict[str, Any]:
    """Return a run whose selector decides at test time as its authors' evaluation does, if `view.gates` is `drawn`.

    A selector says how in `evaluated`; one without gates says nothing and is not changed.
    """
    selector = run.get("selector")
    if view.gates != "drawn" or not selector or name_in("selector", selector) not in names("selector"):
        return dict(run)
    given = {"name": selector} if isinstance(selector, str) else dict(selector)
    return {**run, "selector": {**given, **get("selector", given["name"]).evaluated}}
