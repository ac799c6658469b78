"""Checks before anything runs that a data set has the labels that a task reads, and that both of its splits mean the same by them."""

from collections.abc import Mapping
from typing import Any

from tokenprune.data.base import class_difference
from tokenprune.data.source import DataSource, data_source
from tokenprune.errors import DatasetError, InvalidConfig
from tokenprune.registry import get, names


def check_data(cfg: Mapping[str, Any], reads: str, files: bool = True) -> None:
    """Check the `data` group of a run.

    Args:
        cfg: The run.
        reads: Kind of the items that its task reads: detection, classification or segmentation.
        files: False if the files may be missing. What is there is checked nevertheless.

    Raises:
        InvalidConfig: The data set has other labels.
        DatasetError: A split is missing or malformed, or train and val have other classes.
    """
    if cfg["data"].get("name") not in names("data"):
        return  # `data_source` says so
    kind = get("data", cfg["data"]["name"])
    if reads not in kind.tasks:
        raise InvalidConfig(_other_labels(kind, cfg["task"].get("name"), reads))
    source = data_source(cfg["data"])
    if source.missing():
        return  # said where the files must be there
    for split in _needed(cfg) if files else ():
        source.check(reads, split)
    known = {split: source.class_names(reads, split) for split in ("train", "val")}
    check_classes(known["train"], known["val"], mapped=reads == "detection")


def check_classes(train: tuple[str, ...] | None, val: tuple[str, ...] | None, mapped: bool = False) -> None:
    """Check that two splits have the same classes, where both are known.

    Args:
        train: Names of the classes of train.
        val: Names of the classes of val.
        mapped: Whether the order may differ, because the labels of val are brought into the order of train.

    Raises:
        DatasetError: They differ.
    """
    if train is None or val is None or train == val:
        return
    if mapped and sorted(train) == sorted(val) and len(set(train)) == len(train):
        return
    remedy = "the names of the categories" if mapped else "the names of the class folders"
    raise DatasetError(
        f"{class_difference(train, val)}; a label must mean the same in both: give both the same classes ({remedy}), or set"
        " data.train_split and data.val_split to two splits of one data set"
    )


def _other_labels(source: type[DataSource], task: str, reads: str) -> str:
    tasks = [name for name in names("task") if getattr(get("task", name), "reads", "") in source.tasks]
    fitting = [name for name in names("data") if reads in get("data", name).tasks]
    return (
        f"the data set {source.name!r} has labels for {' and '.join(source.tasks)}, and task={task} reads labels for {reads}; use"
        f" task={' or task='.join(tasks)} with it, or one of these data sets: {', '.join(fitting)}"
    )


def _needed(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the splits that a run opens: train only if something is trained, by the run or by the dense model that it starts from."""
    recipes = [cfg["training"]]
    if cfg.get("init") == "dense" and cfg.get("init_weights") is None:
        recipes.append(cfg.get("dense", {}).get("training", {}))
    return ("train", "val") if any(recipe.get("iterations") for recipe in recipes) else ("val",)
