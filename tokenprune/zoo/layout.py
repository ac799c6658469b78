"""Defines the contract of importers: a layout recognises a published file by its keys and turns it into settings and weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import get, names
from tokenprune.zoo.deit import foreign, is_vit
from tokenprune.zoo.release import Release


@dataclass(frozen=True)
class Imported:
    """Holds a published file in this project's words.

    Attributes:
        settings: Groups of a run as the file needs them: `backbone`, `selector`, `treatment`, `schedule` (mappings with their options),
            `task`, and single values such as `cls`. Nothing that the file leaves open is in it.
        state: {key: tensor} of the model that these settings build: of `PrunedViT` (`backbone.*`, `selectors.*`) for classification, of the
            whole model of the task otherwise.
        classes: Number of classes of the head, 0 without one.
        view: How the authors prepare images: `mean`, `std`, `crop_pct`, `interpolation`, as far as it is not usual (ImageNet's, .875,
            bicubic).
        left_out: {start of keys in the file: reason}. These keys have no place in the model, for example heads of training.
        added: Starts of keys of the model that the file rightly lacks, for example thresholds of this project.
        notes: Remarks that belong on a result row.
    """

    settings: Mapping[str, Any]
    state: Mapping[str, Tensor]
    classes: int = 0
    view: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Layout(ABC):
    """Imports the files of one layout; register a subclass with `@register("layout", NAME)` in a module of `zoo/layouts`.

    Attributes:
        name: Name of the layout in the registry.
        task: The task that its models do: classification, detection or segmentation.
        asks: {setting: description} of what the file does not say and the user or a zoo entry gives by name, for example
            {"keep_rate": "share of tokens that each stage keeps: .9, .8, .7, .6 or .5"}. Those with a default are `offers`.
        offers: {setting: default} of what a user may give beside that.
        examples: {setting: value} for each of `asks`, with which the weights can be converted where the settings do not matter.
        plain: Whether its keys are timm's own, so that the file says nothing of a method.
    """

    name: ClassVar[str]
    task: ClassVar[str] = "classification"
    asks: ClassVar[Mapping[str, str]] = {}
    offers: ClassVar[Mapping[str, Any]] = {}
    examples: ClassVar[Mapping[str, Any]] = {}
    plain: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell by its keys alone, and their shapes, whether a file is of this layout."""

    @abstractmethod
    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return a file's settings and weights.

        Args:
            release: The file.
            given: A value for each of `asks` that the file's `args` do not say, and for those of `offers` that were given.

        Raises:
            CheckpointMismatch: Keys that the layout needs are missing, or the file is a variant that is refused; says which and why.
        """

    def imported(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return `convert` with the layout's task in the settings."""
        found = self.convert(release, given)
        return replace(found, settings={"task": {"name": self.task}, **found.settings})

    def agree(self, name: str, given: Any, said: Any, release: Release) -> bool:
        """Tell whether a setting that was given means the same as the one that the file says; equal values do."""
        return given == said

    def known(self, release: Release) -> dict[str, Any]:
        """Return the settings of `asks` and `offers` that the file itself says, in its `args`, `meta` or name. {} by default."""
        return {}


def recognised(release: Release) -> list[str]:
    """Return the names of the layouts that recognise the keys of a file."""
    return [name for name in names("layout") if get("layout", name).recognises(release.state)]


def layout_of(release: Release) -> Layout:
    """Return the importer of a file.

    Raises:
        CheckpointMismatch: No layout, or more than one, recognises the keys.
    """
    found = recognised(release)
    if len(found) != 1:
        others = foreign(release.state) if is_vit(release.state) else []
        first = ", ".join(list(release.state)[:4]) + (f"; a plain ViT has no {', '.join(others[:8])}" if others else "")
        what = f"is of several layouts ({', '.join(found)})" if found else "is of no known layout"
        raise CheckpointMismatch(
            f"checkpoint {release.name} {what}: {len(release.state)} keys, the first are {first}. Known: {', '.join(names('layout'))}"
        )
    return get("layout", found[0])()


def converted(release: Release, given: Mapping[str, Any]) -> Imported:
    """Return a file in this project's words.

    Args:
        release: The file.
        given: Settings by name; those that the layout does not know are refused, those that the file says itself may be left out.

    Raises:
        CheckpointMismatch: See `layout_of` and `Layout.convert`; or a setting is missing, unknown, or contradicts the file.
    """
    layout = layout_of(release)
    known, allowed = layout.known(release), [*layout.asks, *layout.offers]
    problems = [f"{name!r} is no setting of it" for name in given if name not in allowed]
    problems += [
        f"{name} is {given[name]!r}, and the file itself says {known[name]!r}"
        for name in given
        if name in known and not layout.agree(name, given[name], known[name], release)
    ]
    missing = [name for name in layout.asks if name not in given and name not in known]
    problems += [f"{name} is not given, and the file does not say it: {layout.asks[name]}" for name in missing]
    if problems:
        settings = ", ".join(allowed) or "none"
        raise CheckpointMismatch(f"checkpoint {release.name} (layout {layout.name}): {'; '.join(problems)}. Settings: {settings}")
    return layout.imported(release, {**layout.offers, **known, **given})
