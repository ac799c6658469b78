"""Paints one image of the embedded `shapes` set: a pure function of (seed, split, index, side)."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tokenprune.data.shapes.geometry import SHAPES_CLASSES, draw_clutter, silhouette

_STREAMS = {"train": 0, "val": 1}  # separate random streams: no seed makes a train image reappear in val
_MODES = {"detection": 0, "classification": 1}
_RADII = {"small": (0.065, 0.1), "medium": (0.12, 0.185), "large": (0.21, 0.305)}  # shares of the side
_SIZE_SHARES = (0.24, 0.36, 0.40)
_MIN_VISIBLE = 0.35  # an instance less visible than this is not painted at all, so no unlabelled remnant confuses training
_MIN_AREA = 0.0012  # share of the image's area
_CONTRAST, _CONTRAST_PEERS = 85, 60  # levels of one channel: against the background under an object, and between objects


@dataclass(frozen=True)
class Rendered:
    """Holds one painted image.

    Attributes:
        image: The image, (H,W,3) uint8 RGB.
        ids: 0 for background, k + 1 for object k, (H,W) uint8.
        labels: Classes of the objects, (n,) int64.
    """

    image: np.ndarray
    ids: np.ndarray
    labels: np.ndarray


def render(seed: int, index: int, side: int, mode: str = "detection", split: str = "train", textured: bool = False) -> Rendered:
    """Paint image `index` of a stream, independent of every other index.

    Args:
        seed: Seed of the stream.
        index: Number of the image.
        side: Side in pixels.
        mode: "detection" has 2-7 objects in three sizes, and nearer ones occlude farther ones. "classification" has one main object.
        split: "train" or "val".
        textured: Whether each class also has a surface of its own. One or two patches can tell a surface, where a silhouette takes all of
            them.
    """
    rng = np.random.default_rng((seed, _STREAMS[split] + 2 * _MODES[mode], index))
    labels, radii, centres = _objects(rng) if mode == "detection" else _main_object(rng)
    ids, labels = _stack(rng, side, labels, radii * side, centres * side)
    canvas = _background(rng, side, clutter=int(rng.integers(4, 12)))
    image = _paint(rng, canvas, ids, len(labels))
    if textured:
        image = _surface(rng, image, ids, labels)
    if rng.random() < 0.4:
        front = Image.fromarray(image)
        draw_clutter(front, rng, int(rng.integers(1, 4)), front=True)
        image = np.asarray(front)
    noise = rng.random(image.shape, dtype=np.float32)
    noise -= np.float32(0.5)
    noise *= np.float32(rng.uniform(6, 22))
    noise += image
    return Rendered(_to_bytes(noise), ids, labels)


def _objects(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels (n,), radii (n,) and centres (n,2) in units of the side, nearest object first."""
    n = int(rng.integers(2, 8))
    bounds = np.array(list(_RADII.values()))[rng.choice(3, n, p=_SIZE_SHARES)]
    radii = np.sort(rng.uniform(bounds[:, 0], bounds[:, 1]))[::-1]
    centres = np.zeros((n, 2))
    for i, r in enumerate(radii):  # the largest finds its place first; the least crowded of a few random places is taken
        places = rng.uniform(0.8 * r, 1 - 0.8 * r, (8, 2))
        gaps = np.linalg.norm(places[:, None] - centres[None, :i], axis=2)
        overlap = np.clip(0.9 * (r + radii[:i]) - gaps, 0, None) / np.minimum(r, radii[:i])
        centres[i] = places[overlap.sum(axis=1).argmin()]
    near = np.argsort(radii * np.exp(rng.normal(0, 0.3, n)))  # small objects tend to lie in front, else they would vanish
    return rng.integers(0, len(SHAPES_CLASSES), n), radii[near], centres[near]


def _main_object(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    radius = rng.uniform(0.2, 0.4, 1)
    return rng.integers(0, len(SHAPES_CLASSES), 1), radius, rng.uniform(0.85 * radius, 1 - 0.85 * radius, (1, 2))


def _stack(
    rng: np.random.Generator, side: int, labels: np.ndarray, radii: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the objects from front to back, so that an object that is hidden too much can be left out before it hides others."""
    ids, kept = np.zeros((side, side), dtype=np.uint8), []
    angles, aspects = rng.uniform(0, 2 * np.pi, len(labels)), rng.uniform(0.75, 1.0, len(labels))
    smallest = max(12.0, _MIN_AREA * side * side)
    for label, radius, centre, angle, aspect in zip(labels.tolist(), radii, centres, angles, aspects, strict=True):
        mask = silhouette(label, side, centre, radius, angle, aspect)
        visible = mask & (ids == 0)
        area = np.count_nonzero(visible)
        if area >= smallest and area >= _MIN_VISIBLE * np.count_nonzero(mask):
            kept.append(label)
            ids[visible] = len(kept)
    return ids, np.array(kept, dtype=np.int64)


def _texture(rng: np.random.Generator, side: int, octaves: tuple[tuple[int, float], ...], bands: int) -> np.ndarray:
    """Return smooth noise (side,side) or (side,side,3) uint8 around 128; `octaves` are (cells, share of the range), coarsest first.

    Each octave is added on its own coarse grid, and the sum is enlarged once. This costs a third of adding them at full size.
    """
    total: Image.Image | None = None
    for cells, share in octaves:
        shape = (cells, cells, 3) if bands == 3 else (cells, cells)
        grid = (rng.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(255 * share)
        base = 128 if total is None else np.asarray(total.resize((cells, cells), Image.Resampling.BILINEAR), dtype=np.float32)
        total = Image.fromarray(np.clip(grid + base, 0, 255).astype(np.uint8))
    return np.asarray(total.resize((side, side), Image.Resampling.BILINEAR))


def _background(rng: np.random.Generator, side: int, clutter: int) -> np.ndarray:
    """Return coloured noise of three octaves, sometimes stripes, with distractors on it, (side,side,3) uint8."""
    canvas = _texture(rng, side, ((3, 0.35), (8, 0.3), (24, 0.2)), 3) + rng.uniform(-68, 68, 3).astype(np.float32)
    if rng.random() < 0.4:
        angle, periods, phase = rng.uniform(0, np.pi), rng.uniform(4, 16), rng.uniform(0, 2 * np.pi)
        axis = np.arange(side, dtype=np.float32) * (2 * np.pi * periods / side)
        wave = np.sin(axis[None, :] * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle)) + np.float32(phase))
        canvas += wave[..., None] * rng.uniform(-22, 22, 3).astype(np.float32)
    image = Image.fromarray(_to_bytes(canvas))
    draw_clutter(image, rng, clutter)
    return np.asarray(image)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    np.maximum(image, 0, out=image)
    np.minimum(image, 255, out=image)
    return image.astype(np.uint8)


def _contrasting(rng: np.random.Generator, below: np.ndarray, peers: list[np.ndarray]) -> np.ndarray:
    """Return the first of some random colours (3,) that stands out from `below` (3,) and, if possible, from the other objects."""
    colours = rng.uniform(10, 245, (24, 3))
    excess = np.abs(colours - below).max(axis=1) - _CONTRAST
    for peer in peers:
        excess = np.minimum(excess, np.abs(colours - peer).max(axis=1) - _CONTRAST_PEERS)
    good = np.flatnonzero(excess >= 0)
    return colours[good[0] if len(good) else excess.argmax()]


def _paint(rng: np.random.Generator, canvas: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Fill each object with its colour, a shading and its own strength of texture, (side,side,3) uint8."""
    side = len(ids)
    colours: list[np.ndarray] = []
    for k in range(1, n + 1):
        under = np.flatnonzero(ids == k)
        some = under[:: len(under) // 64 + 1]  # a sample of the covered pixels is as good as all of them
        colours.append(_contrasting(rng, canvas.reshape(-1, 3)[some].mean(axis=0), colours))
    strength = rng.uniform(0.1, 0.4, n + 1).astype(np.float32)  # row 0 of each table belongs to the background and is not used
    slopes = rng.normal(0, 18 / side, (2, n + 1)).astype(np.float32)
    axis = np.arange(side, dtype=np.float32) - side / 2
    relief = (_texture(rng, side, ((10, 0.4), (side // 4, 0.5)), 1) - np.float32(128)) * strength[ids]
    relief += slopes[0][ids] * axis[None, :] + slopes[1][ids] * axis[:, None]
    table = np.array([np.zeros(3), *colours], dtype=np.float32)
    filled = table[ids]
    filled += relief[..., None]
    return np.where(ids[..., None] > 0, _to_bytes(filled), canvas)


def _surface(rng: np.random.Generator, image: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw on each object the pattern of its class, at any angle and phase, (side,side,3) uint8."""
    side, result = len(ids), image.astype(np.float32)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    for k, label in enumerate(labels.tolist(), start=1):
        angle, (u0, v0) = rng.uniform(0, np.pi), rng.uniform(0, side, 2)
        u = (columns - u0) * np.cos(angle) + (rows - v0) * np.sin(angle)
        v = (rows - v0) * np.cos(angle) - (columns - u0) * np.sin(angle)
        pattern = _pattern(label, u * (128 / side), v * (128 / side))
        level = result[ids == k].mean()
        result[ids == k] += (rng.uniform(45, 80) * (1 if level < 128 else -1) * pattern[ids == k])[:, None]
    return _to_bytes(result)


def _pattern(label: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the pattern of a class, 0 to 1, in coordinates of an image of 128 pixels.

    The patterns are plain, dashes, and stripes, checks and dots, each of these three coarse and fine.
    """
    period = 4.5 if label % 2 else 11.0
    phase_u, phase_v = u / period % 1, v / period % 1
    kinds = (
        np.zeros_like(u) if label == 0 else (phase_u < 0.5) & (phase_v < 0.18),  # plain, dashes
        phase_u < 0.5,  # stripes
        (phase_u < 0.5) != (phase_v < 0.5),  # checks
        (phase_u - 0.5) ** 2 + (phase_v - 0.5) ** 2 < 0.1,  # dots
    )
    return kinds[label // 2].astype(np.float32)
