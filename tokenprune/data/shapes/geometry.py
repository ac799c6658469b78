"""Draws the eight silhouettes, and clutter that resembles none of them, as polygons for PIL."""

import math

import numpy as np
from PIL import Image, ImageDraw

SHAPES_CLASSES = ("disk", "square", "triangle", "star", "ring", "cross", "arrow", "crescent")


def _circle(radius: float = 1.0, cx: float = 0.0, points: int = 32) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return np.stack([cx + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _star(inner: float = 0.46) -> np.ndarray:
    angles = np.arange(10) * math.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.12, 1.12 * inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _cross(arm: float = 0.34) -> np.ndarray:
    a, b = arm, 1.0
    return np.array([(a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a), (-a, -b), (a, -b), (a, -a), (b, -a), (b, a)])


# Per class: the outline in a circle of radius about 1, and the hole cut out of it (None: solid).
_ARROW = np.array([(1.05, 0), (0.05, 0.95), (0.05, 0.38), (-1.0, 0.38), (-1.0, -0.38), (0.05, -0.38), (0.05, -0.95)])
_OUTLINES: tuple[tuple[np.ndarray, np.ndarray | None], ...] = (
    (_circle(), None),
    (np.array([(0.85, 0.85), (-0.85, 0.85), (-0.85, -0.85), (0.85, -0.85)]), None),
    (1.15 * _circle(points=3), None),
    (_star(), None),
    (_circle(), _circle(0.52)),
    (_cross(), None),
    (_ARROW, None),
    (1.05 * _circle(), _circle(0.8, 0.55)),
)


def _place(points: np.ndarray, centre: np.ndarray, radius: float, angle: float, aspect: float) -> list[tuple[float, float]]:
    c, s = math.cos(angle), math.sin(angle)
    x, y = points[:, 0] * radius, points[:, 1] * (radius * aspect)
    return list(zip((centre[0] + c * x - s * y).tolist(), (centre[1] + s * x + c * y).tolist(), strict=True))


def silhouette(label: int, side: int, centre: np.ndarray, radius: float, angle: float, aspect: float) -> np.ndarray:
    """Return the mask (side,side) bool of class `label`.

    Args:
        label: The class.
        side: Side of the image in pixels.
        centre: Centre in pixels, (2,).
        radius: Radius in pixels.
        angle: Angle in radians.
        aspect: Factor on the length of one axis.
    """
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    outline, hole = _OUTLINES[label]
    draw.polygon(_place(outline, centre, radius, angle, aspect), fill=1)
    if hole is not None:
        draw.polygon(_place(hole, centre, radius, angle, aspect), fill=0)
    return np.asarray(image).view(bool)


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(20, 236, 3).tolist())


def _line(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, width: int) -> None:
    draw.line(rng.uniform(-0.1 * side, 1.1 * side, 4).tolist(), fill=_colour(rng), width=width)


def _shard(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """Draw a long splinter with a crooked outline. It is at most a third as wide as long, so it is no square or triangle."""
    length, angle = rng.uniform(0.08, 0.2) * side, rng.uniform(0, 2 * math.pi)
    along = np.array([-1.0, -0.3, 0.4, 1.0, 0.5, -0.4]) * length / 2
    across = rng.uniform(0.03, 0.16, 6) * np.array([1, 1, 1, -1, -1, -1]) * length
    draw.polygon(_place(np.stack([along, across], axis=1), rng.uniform(0, side, 2), 1.0, angle, 1.0), fill=_colour(rng))


def _scribble(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, width: int) -> None:
    steps = rng.normal(0, 0.06 * side, (7, 2))
    draw.line((rng.uniform(0, side, 2) + np.cumsum(steps, axis=0)).ravel().tolist(), fill=_colour(rng), width=width)


def draw_clutter(image: Image.Image, rng: np.random.Generator, count: int, front: bool = False) -> None:
    """Draw `count` distractors onto an RGB image in place. In front of objects they are only hairlines, which hide next to nothing."""
    draw, side = ImageDraw.Draw(image), image.width
    hair = max(1, side // 128)
    for kind in rng.integers(0, 2 if front else 3, count).tolist():
        width = hair if front else hair * int(rng.integers(1, 4))
        if kind == 0:
            _line(draw, rng, side, width)
        elif kind == 1:
            _scribble(draw, rng, side, width)
        else:
            _shard(draw, rng, side)
