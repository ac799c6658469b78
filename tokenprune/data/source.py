"""Defines the contract of a data set: a plugin of kind `data` that opens its splits for the tasks that it serves.

    @register("data", "mine")
    @dataclass(frozen=True)
    class Mine(DataSource):
        '''One line for the list.'''

        tasks = ("classification",)
        root: str | None = None

        def open(self, task, split):
            return MyImages(self.root, split)

`data=mine data.root=DIR` opens it. Items are, by task: `detection` a `Sample`; `classification` (image (H,W,3) uint8 RGB, label);
`segmentation` (image (H,W,3) uint8 RGB, labels (H,W) int64, -1 for none). A split also has `classes`, the names of the labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tokenprune.errors import DatasetError, UnknownPlugin, hint
from tokenprune.registry import build, get, names
from tokenprune.utils.settings import plain

SPLITS = ("train", "val")


class DataSource(ABC):
    """Opens one data set; its options are the fields of its dataclass, and `data.NAME` on the command line.

    Attributes:
        tasks: The kinds of items that it gives: detection, classification, segmentation.
        holds: Content of the folder `data.root`, for messages; empty for a data set without files.
        labelled: False for pictures without labels, by which nothing can be judged.
        photographs: False for pictures that are drawn, without an upright direction and without fixed colours.
        maps: Whether a classification set has a method `with_map`, i -> (image, label, class map (H,W)), which token labels need.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ()
    holds: ClassVar[str] = ""
    labelled: ClassVar[bool] = True
    photographs: ClassVar[bool] = True
    maps: ClassVar[bool] = False

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """Return the declared facts, as the list prints them."""
        return {"tasks": ", ".join(cls.tasks), "root": cls.holds or "none"}

    @abstractmethod
    def open(self, task: str, split: str) -> Any:
        """Open a split ("train" or "val") for one of `tasks`.

        Raises:
            DatasetError: A field or the root is missing, or the data are malformed.
        """

    def check(self, task: str, split: str) -> None:
        """Check a split before anything runs, without reading its pictures. A data set without files has nothing to check.

        Raises:
            DatasetError: The split is not there, or its lists or annotations are malformed.
        """
        return

    def class_names(self, task: str, split: str) -> tuple[str, ...] | None:
        """Return the names of the labels of a split in their order, or None where they are not known without reading the whole split."""
        return None

    def files(self) -> dict[str, str]:
        """Return {name: digest} of the files that the numbers of a run depend on, for its key; {} if there are none."""
        return {}

    def missing(self) -> str:
        """Return the reason why the files cannot be read, in words; empty if they are there or none are needed."""
        root = getattr(self, "root", None)
        if not self.holds:
            return ""
        if root is None:
            return f"data.root is not set; give the folder that holds {self.holds}: data.root=DIR"
        return (
            ""
            if self.has_root(Path(root).expanduser())
            else f"data.root is {root!r}, and there is no such folder; give the one that holds {self.holds}"
        )

    def has_root(self, root: Path) -> bool:
        """Tell whether `root` can be opened."""
        return root.is_dir()

    def required(self, field: str, remedy: str = "") -> Any:
        """Return the value of a field.

        Raises:
            DatasetError: It is not set.
        """
        value = getattr(self, field)
        if value is None:
            raise DatasetError(f"data set {self.name!r}: {field} is not given: {remedy or f'set data.{field}'}")
        return value


def data_source(cfg: Mapping[str, Any]) -> DataSource:
    """Return the data set that the group `data` of a configuration names, not opened yet.

    Raises:
        UnknownPlugin: There is no such data set.
        InvalidConfig: It has no such option.
    """
    given = {name: value for name, value in plain(cfg).items() if not (isinstance(value, str) and value == "???")}
    return build("data", given)


def open_data(cfg: Mapping[str, Any], task: str, split: str) -> Any:
    """Open a split of the data set that `cfg` names, for a task; see `DataSource`.

    Args:
        cfg: The `data` group of the configuration.
        task: Kind of the items: detection, classification or segmentation.
        split: "train" or "val".

    Raises:
        UnknownPlugin: The name is no data set for this task.
        InvalidConfig: The data set has no such option.
        DatasetError: A field or the root is missing, or the data are malformed.
    """
    if split not in SPLITS:
        raise DatasetError(f"data: split is {split!r}, allowed are 'train' and 'val'")
    name, known = cfg.get("name"), [name for name in names("data") if task in get("data", name).tasks]
    if name not in known:
        near = hint(str(name).lower(), known) or " Set data=NAME."
        raise UnknownPlugin(f"unknown data set {name!r} for this task, allowed are {', '.join(known)}.{near}")
    return data_source(cfg).open(task, split)
