"""Tiny labelled images as folders, zips and tars; and where the real ones of a development machine are."""

import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("beta", "Alpha", "n10", "n2")  # sorted by their characters: Alpha, beta, n10, n2; timm would sort otherwise


def real(name: str) -> Path:
    """Return where the data set `name` is or would be: in the folder TOKENPRUNE_DATA, or in shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    return Path(os.environ.get("TOKENPRUNE_DATA", beside)) / name


def write_folder(root: Path, counts: dict[str, int], seed: int = 0, split: str = "val") -> Path:
    """Write `counts` images a class, of different sizes, each of one colour and lossless, as root/split/<class>/<i>.png; return root."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            height, width = rng.integers(9, 40, 2)
            pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3))
            Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{Path(name).name}_{i}.png")
    return root


def both_splits(root: Path, classes: tuple[str, ...] = CLASSES, train: int = 4, val: int = 3) -> Path:
    """Write a train and a val split with so many images a class; return root."""
    write_folder(root, dict.fromkeys(classes, train), 1, "train")
    return write_folder(root, dict.fromkeys(classes, val), 2, "val")


def pack(source: Path, target: Path, prefix: str = "") -> Path:
    """Pack the files below `source` into a .zip or .tar with `prefix` before their paths; return target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files = sorted((p for p in source.rglob("*") if p.is_file()), reverse=True)  # the order in an archive must not matter
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for file in files:
                archive.write(file, prefix + file.relative_to(source).as_posix())
    else:
        with tarfile.open(target, "w") as archive:
            for file in files:
                archive.add(file, prefix + file.relative_to(source).as_posix())
    return target
