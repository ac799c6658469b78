"""Tells in words where a model has other settings than the file whose weights it takes."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from tokenprune.backbones.vit import read_backbone
from tokenprune.engine.arguments import completed, explicit
from tokenprune.engine.schedule import TARGET, Layout
from tokenprune.registry import build, get

KINDS = ("selector", "treatment", "schedule")


def method_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], open_settings: Collection[str] = ()) -> list[str]:
    """Return where two models of one selector differ in options of selector, treatment and schedule.

    Args:
        theirs: Groups of the file.
        ours: Groups of the model, names or mappings; what is missing or None is what the selector's paper has.
        open_settings: Options that the file leaves open; nothing is said of them.
    """
    published = get("selector", theirs["selector"]["name"]).published
    found = []
    for kind in KINDS:
        wanted = _all(kind, theirs.get(kind) or published[kind])
        got = _all(kind, completed(ours.get(kind), published.get(kind), kind) if kind != "selector" else ours[kind])
        if kind == "schedule" and (open_settings or counts(wanted, theirs["backbone"]) == counts(got, theirs["backbone"])):
            continue
        found += [
            f"the file was made with {kind}.{option}={value!r}, the model has {other!r}"
            for option, other, value in unlike(got, wanted)
            if option not in open_settings
        ]
    return found


def unlike(got: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (option, value that there is, value that is wanted) for each option in which a group differs from the wanted one."""
    return [(option, got.get(option), value) for option, value in wanted.items() if not same(got.get(option), value)]


def counts(schedule: Mapping[str, Any], backbone: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return (block, kept positions) of each decision of a schedule on a ViT of these settings."""
    vit = read_backbone(backbone)
    layout = Layout(depth=vit.depth, positions=(vit.img_size // vit.patch_size) ** 2)
    return [(budget.block, budget.keep) for budget in build("schedule", dict(schedule)).budgets(layout)]


def same(got: Any, wanted: Any) -> bool:
    """Tell whether two settings are equal: numbers up to rounding, a mapping in what is wanted of it."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        return all(same(got.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, (list, tuple)) and isinstance(got, (list, tuple)):
        return len(wanted) == len(got) and all(map(same, got, wanted))
    if isinstance(wanted, (int, float)) and isinstance(got, (int, float)):
        return math.isclose(got, wanted, rel_tol=1e-9)
    return got == wanted


def _all(kind: str, spec: Any) -> dict[str, Any]:
    """Return a plugin's name with each of its options."""
    return {name: value for name, value in explicit(kind, spec).items() if name != TARGET}
