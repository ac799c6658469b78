"""Pictures as models saw them, made up: for what draws them."""

import numpy as np
import torch

from tokenprune.report.show.shown import Entry, Shown
from tokenprune.tasks.pictures import Guesses, LabelMap, Picture, Predictions

PATCH, GRID, DEPTH = 8, (3, 4), 5


def pixels(seed: int = 0) -> np.ndarray:
    """Return (22,30,3) uint8: the last row and column of cells are cut."""
    return np.random.default_rng(seed).integers(0, 256, (22, 30, 3), dtype=np.uint8)


def owners(kind: str) -> torch.Tensor:
    """Return (L,H,W) int32: `dense` all their own, `drop` fewer from block 2 on, `merge` two groups from block 3 on."""
    itself = torch.arange(12, dtype=torch.int32).repeat(DEPTH, 1)
    if kind == "drop":
        itself[2:, 6:] = -1
        itself[4, 1] = -1
    if kind == "merge":
        itself[3:, [1, 2, 11]] = 0
        itself[3:, 6] = 5
    return itself.view(DEPTH, *GRID)


def entry(kind: str, predictions=None, **changes) -> Entry:
    """Return an entry of a model of a kind of `owners`."""
    who = owners(kind)
    used = who == torch.arange(12).view(GRID)
    tokens = tuple(used.flatten(1).sum(1).tolist())
    gmac = {"dense": (0.9, 1.0), "drop": (0.5, 0.6), "merge": (0.7, 0.75)}[kind]
    given = {"predictions": predictions, "owners": who, "tokens": tokens, "gmac": gmac}
    picture = Picture(0, pixels(), used, PATCH, **given)
    facts = {"label": kind.title(), "about": f"about {kind}", "dense": kind == "dense"}
    return Entry(**{**facts, "picture": picture, **changes})


def classified(name: str = "photo.jpg") -> Shown:
    """Return a picture with three classifiers; names need escaping."""
    first, second = Guesses(("cat", "<b>dog</b>"), (0.75, 0.2)), Guesses(("<b>dog</b>", "cat"), (0.6, 0.3))
    note = ("its weights are & stay random",)
    return Shown(name, (entry("dense", first), entry("drop", second), entry("merge", first, notes=note)))


def detected() -> Shown:
    """Return a picture with a dense and a pruned detector; the last object is below the score that is drawn."""
    masks = np.zeros((3, 22, 30), bool)
    masks[0, 2:9, 3:12], masks[1, 10:20, 15:28], masks[2, :2, :2] = True, True, True
    boxes = np.array([[3.0, 2, 12, 9], [15, 10, 28, 20], [0, 0, 2, 2]])
    found = Predictions(boxes, np.array([0.9, 0.8, 0.3]), masks, ("ring", "star", "disk"))
    one = Predictions(boxes[1:2], np.array([0.7]), masks[1:2], ("star",))
    return Shown("street", (entry("dense", found), entry("drop", one)))


def segmented() -> Shown:
    """Return a picture with a segmenter."""
    values = np.zeros((22, 30), np.int64)
    values[5:, 10:], values[:3] = 1, -1
    return Shown("road", (entry("drop", LabelMap(values, ("sky", "road"))),))
