"""Makes what a detector or a segmenter found in a picture into boxes, a coloured layer and a list of colours."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenprune.report.figures.shared.panels import class_colours, wheel
from tokenprune.report.show.pixels import data_uri
from tokenprune.tasks.pictures import LabelMap, Picture, Predictions

SCORE = 0.5  # objects below it are not drawn
_OPACITY = 0.5
_CLASSES = 8  # in the list of a label map
_LINE = 0.006  # of the longer side: width of boxes


@dataclass(frozen=True)
class Box:
    """Holds the box of an object in pixels, its colour and its words."""

    x: str
    y: str
    width: str
    height: str
    colour: str
    words: str


@dataclass(frozen=True)
class Item:
    """Holds a colour of the list and its words."""

    colour: str
    words: str


@dataclass(frozen=True)
class Found:
    """Holds what a model found.

    Attributes:
        words: What it is.
        overlay: A coloured layer as a data address; "" for none.
        boxes: Boxes of objects.
        legend: Objects or classes with their colours.
        stroke: Width of the boxes' lines in pixels.
    """

    words: str
    overlay: str
    boxes: tuple[Box, ...]
    legend: tuple[Item, ...]
    stroke: float


def names_in(pictures: Iterable[Picture]) -> tuple[str, ...]:
    """Return the classes of the objects found in any of the pictures, in the order of their colours."""
    found = [picture.predictions.above(SCORE).names for picture in pictures if isinstance(picture.predictions, Predictions)]
    return tuple(dict.fromkeys(name for names in found for name in names))


def found_in(picture: Picture, names: Sequence[str] = ()) -> Found | None:
    """Return what a model found in a picture; None for a classifier.

    Args:
        picture: The picture.
        names: Classes of all objects on the sheet: each has one colour for all models.
    """
    stroke = round(max(1.0, _LINE * max(picture.pixels.shape[:2])), 1)
    if isinstance(picture.predictions, Predictions):
        return _objects(picture.predictions, stroke, names)
    return _labels(picture.predictions, stroke) if isinstance(picture.predictions, LabelMap) else None


def _objects(predictions: Predictions, stroke: float, order: Sequence[str]) -> Found:
    sure = predictions.above(SCORE)
    names = sure.names or ("object",) * len(sure.scores)
    every = tuple(dict.fromkeys((*order, *names)))
    colours = wheel(len(every))[[every.index(name) for name in names]]
    words = [f"{name} {score:.0%}" for name, score in zip(names, sure.scores, strict=True)]
    boxes = tuple(_box(box, hex_of(colour), text) for box, colour, text in zip(sure.boxes, colours, words, strict=True))
    height, width = predictions.masks.shape[1:]
    layer = np.zeros((height, width, 4))
    for mask, colour in zip(sure.masks, colours, strict=True):
        layer[mask] = (*colour, _OPACITY)
    legend = tuple(Item(hex_of(colour), text) for colour, text in zip(colours, words, strict=True))
    count = len(boxes)
    return Found(f"{count} object{'s' * (count != 1)} found with a score of {SCORE:g} or more", coloured(layer), boxes, legend, stroke)


def _labels(labels: LabelMap, stroke: float) -> Found:
    layer = np.dstack([class_colours(labels), np.where(labels.values < 0, 0.0, _OPACITY + 0.1)])
    numbers, counts = np.unique(labels.values[labels.values >= 0], return_counts=True)
    order = np.argsort(-counts)[:_CLASSES]
    colours = wheel(len(labels.classes))
    legend = [Item(hex_of(colours[numbers[k]]), f"{labels.classes[numbers[k]]} {counts[k] / labels.values.size:.0%}") for k in order]
    more = f", the largest {_CLASSES} below" if len(numbers) > _CLASSES else ""
    return Found(f"predicted labels: {len(numbers)} class{'es' * (len(numbers) != 1)}{more}", coloured(layer), (), tuple(legend), stroke)


def _box(box: Any, colour: str, words: str) -> Box:
    x1, y1, x2, y2 = (float(value) for value in box)
    return Box(f"{x1:.1f}", f"{y1:.1f}", f"{max(0.0, x2 - x1):.1f}", f"{max(0.0, y2 - y1):.1f}", colour, words)


def hex_of(colour: np.ndarray) -> str:
    """Return a colour (3,) in [0,1] as #rrggbb."""
    return "#" + "".join(f"{round(255 * float(value)):02x}" for value in colour)


def coloured(layer: np.ndarray) -> str:
    """Return a layer (h,w,4) in [0,1] as a data address; "" where nothing is drawn."""
    return data_uri((255 * layer).round().astype(np.uint8)) if layer[..., 3].any() else ""
