"""Registers the data sets that tokenprune knows: embedded pictures, COCO roots, image folders, label maps, and pictures without labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from tokenprune.data.source import DataSource
from tokenprune.errors import DatasetError
from tokenprune.registry import register
from tokenprune.utils.files import digest, folder_digest


@register("data", "shapes")
@dataclass(frozen=True)
class Shapes(DataSource):
    """Draws procedural pictures of shapes, which are embedded: no file is needed.

    Args:
        side: Side of the pictures in pixels, 48 to 512.
        train_size: Number of pictures to train on.
        val_size: Number of pictures to judge by.
        seed: Seed of the pictures.
        textured: Whether each class has a surface of its own beside its silhouette.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection", "classification", "segmentation")
    photographs: ClassVar[bool] = False
    maps: ClassVar[bool] = True
    side: int | None = None
    train_size: int | None = None
    val_size: int | None = None
    seed: int | None = None
    textured: bool = False

    def open(self, task: str, split: str) -> Any:
        """Open a split; train and val never share a picture."""
        settings = (self.required(f"{split}_size"), self.required("side"), self.required("seed"), split)
        if task == "detection":
            from tokenprune.data.shapes.shapes import ShapesDetection

            return ShapesDetection(*settings)
        if task == "classification":
            from tokenprune.data.shapes.shapes import ShapesClassification

            return ShapesClassification(*settings, textured=bool(self.textured))
        from tokenprune.data.semantic import ShapesSemantic

        return ShapesSemantic(*settings, textured=bool(self.textured))


@register("data", "coco")
@dataclass(frozen=True)
class Coco(DataSource):
    """Reads a COCO root: annotations/instances_*.json and the image folders.

    Args:
        root: The folder.
        train_split: Name of the image folder to train on.
        val_split: Name of the image folder to judge by.
        max_train: Only the first pictures, None for all.
        max_val: Only the first pictures, None for all.
        annotations: A file or folder of annotations elsewhere.
        short_side: Size that pictures are shown at: the shorter side in pixels.
        long_side: The longest that the other side may be.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    holds: ClassVar[str] = "annotations/ and the images"
    root: str | None = None
    train_split: str | None = "train2017"
    val_split: str | None = "val2017"
    max_train: int | None = None
    max_val: int | None = None
    annotations: str | None = None
    short_side: int | None = None
    long_side: int | None = None

    def open(self, task: str, split: str) -> Any:
        """Read and check the annotations of a split."""
        from tokenprune.data.coco import CocoDetection

        root = self.required("root", "set data.root=DIR, a folder with annotations/instances_*.json and the image folders")
        return CocoDetection(root, self._split(split), getattr(self, f"max_{split}"), self.annotations)

    def check(self, task: str, split: str) -> None:
        """Check the annotations of a split; opening it reads them no second time."""
        from tokenprune.data.coco import locate
        from tokenprune.data.coco_check import checked_coco

        checked_coco(locate(self.root, self._split(split), self.annotations)[1])

    def class_names(self, task: str, split: str) -> tuple[str, ...] | None:
        """Return the names of the categories by ascending id; None if the split has no annotations."""
        from tokenprune.data.coco import locate
        from tokenprune.data.coco_check import category_names

        try:
            file = locate(self.root, self._split(split), self.annotations)[1]
        except DatasetError:
            return None
        return category_names(file) if file.is_file() else None

    def _split(self, split: str) -> str:
        return getattr(self, f"{split}_split") or f"{split}2017"

    def files(self) -> dict[str, str]:
        """Return the digests of the annotation files of both splits."""
        splits = [split for split in (self.train_split, self.val_split) if split]
        paths = sorted(p for p in Path(self.root or "").expanduser().glob("annotations/*.json") if any(s in p.name for s in splits))
        given = [] if self.annotations is None else [p for p in [Path(self.annotations).expanduser()] if p.is_file()]
        return {path.name: digest(path) for path in [*paths, *given]}


@register("data", "imagefolder")
@dataclass(frozen=True)
class ImageFolders(DataSource):
    """Reads images in class folders: ROOT/train and ROOT/val, each a folder, a zip or a tar; or one archive with both.

    Args:
        root: The folder or archive.
        train_split: Name of the folder or archive to train on.
        val_split: Name of the folder or archive to judge by.
        max_train: Only the first images, of all classes in turn; None for all.
        max_val: Only the first images, of all classes in turn; None for all.
        side: Side that images are shown at, in pixels.
        order: Order of the class folders, which gives the labels: `text` (10 before 2, as torchvision) or `natural` (2 before 10, as timm).
            None: by value if all names are numbers, else text.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    holds: ClassVar[str] = "train and val, each a folder, zip or tar of class folders"
    root: str | None = None
    train_split: str | None = "train"
    val_split: str | None = "val"
    max_train: int | None = None
    max_val: int | None = None
    side: int | None = None
    order: str | None = None

    def open(self, task: str, split: str) -> Any:
        """List the images of a split."""
        from tokenprune.data.imagefolder import ImageFolder

        root = self.required("root", "set data.root=DIR, a folder with train and val, each a folder, zip or tar of class folders")
        return ImageFolder(root, self._split(split), getattr(self, f"max_{split}"), self.order)

    def check(self, task: str, split: str) -> None:
        """Check that the folder or archive of a split is there."""
        from tokenprune.data.imagefolder import locate

        locate(self.root, self._split(split))

    def class_names(self, task: str, split: str) -> tuple[str, ...] | None:
        """Return the names of the class folders of a folder; None for an archive, which would have to be read."""
        from tokenprune.data.imagefolder import class_folders

        return class_folders(self.root, self._split(split), self.order)

    def _split(self, split: str) -> str:
        return getattr(self, f"{split}_split") or split

    def has_root(self, root: Path) -> bool:
        """Tell whether `root` is a folder or a file."""
        return root.is_dir() or root.is_file()

    def files(self) -> dict[str, str]:
        """Return a digest of each archive, and of the files in each folder."""
        root = Path(self.root or "").expanduser()
        splits = [split for split in (self.train_split, self.val_split) if split]
        places = [root] if root.is_file() else sorted(p for p in root.iterdir() if p.stem in splits) if self.root and root.is_dir() else []
        return {place.name: digest(place) if place.is_file() else folder_digest(place) for place in places}


@register("data", "semantic")
@dataclass(frozen=True)
class Semantic(DataSource):
    """Reads pictures with a label image each, in which every pixel is the number of its class.

    Args:
        root: The folder.
        images: Folder of the pictures in it, with {split} in the place of the split's name.
        labels: Folder of the label images in it.
        classes: File with the names of the classes, or the names.
        ignore: Pixel values without a class.
        offset: Pixel value of class 0.
        train_split: Name of the split to train on.
        val_split: Name of the split to judge by.
        max_train: Only the first pictures, None for all.
        max_val: Only the first pictures, None for all.
        side: Side that pictures are shown at, in pixels.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    holds: ClassVar[str] = "images/ and labels/"
    root: str | None = None
    images: str | None = None
    labels: str | None = None
    classes: Any = None
    ignore: int | Sequence[int] | None = None
    offset: int | None = None
    train_split: str | None = None
    val_split: str | None = None
    max_train: int | None = None
    max_val: int | None = None
    side: int | None = None

    def open(self, task: str, split: str) -> Any:
        """List the pictures of a split and read the names of the classes."""
        from tokenprune.data.semantic import open_folders

        self.required("root", "set data.root=DIR, a folder with a folder of images and a folder of label images")
        return open_folders(asdict(self), split)

    def check(self, task: str, split: str) -> None:
        """Check the folders of a split and the names of the classes, and that a pixel has a class."""
        from tokenprune.data.semantic import require_labels

        require_labels(self.open(task, split), split)

    def files(self) -> dict[str, str]:
        """Return digests of the folders of pictures and of label images, and of the list of classes."""
        root = Path(self.root or "").expanduser()
        found = {}
        for part in ("images", "labels"):
            for split in ("train", "val"):
                name = str(getattr(self, part) or f"{part}/{{split}}").replace("{split}", str(getattr(self, f"{split}_split") or split))
                if self.root and (root / name).is_dir():
                    found[name] = folder_digest(root / name)
        return {**found, **({self.classes: digest(root / self.classes)} if isinstance(self.classes, str) else {})}


@register("data", "unlabelled")
@dataclass(frozen=True)
class UnlabelledPictures(DataSource):
    """Paints pictures of any size without labels, for measuring time and cost if no data set is at hand.

    Args:
        short_side: Shorter side in pixels.
        long_side: Longer side in pixels.
        classes: Number of classes of a detector.
        train_size: Number of pictures of the split train.
        val_size: Number of pictures of the split val.
        seed: Seed of the pictures.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    labelled: ClassVar[bool] = False
    photographs: ClassVar[bool] = False
    short_side: int | None = None
    long_side: int | None = None
    classes: int | None = None
    train_size: int | None = None
    val_size: int | None = None
    seed: int | None = None

    def open(self, task: str, split: str) -> Any:
        """Open a split; both begin with the same pictures."""
        from tokenprune.data.unlabelled import Unlabelled

        sides = (self.required("short_side"), self.required("long_side"))
        return Unlabelled(self.required(f"{split}_size"), sides, self.required("classes"), self.required("seed"))
