"""Imports files that hold a plain DeiT or ViT and nothing else: EViT, A-ViT, ToMe, and any method without weights of its own."""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tokenprune.errors import CheckpointMismatch
from tokenprune.registry import get, names, register
from tokenprune.zoo.arguments import of_run, said
from tokenprune.zoo.deit import backbone_of, classes_of, foreign, is_vit, under
from tokenprune.zoo.layout import Imported, Layout
from tokenprune.zoo.release import Release

DENSE = "dense"
_A_VIT_FILE = re.compile(r"(?:tiny|small|base)-(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)\.\w+")
_NEEDS: dict[str, dict[str, str]] = {
    "evit": {
        "keep_rate": "share of the present tokens that each stage keeps: .9, .8, .7, .6 or .5 as published",
        "fuse_token": "whether dropped tokens are fused into one: true or false",
    },
    "a_vit": {"gamma": "scale of the halting scores, 10 as published", "beta": "their centre: 30 for DeiT-T, 75 for DeiT-S as published"},
    "tome": {"r": "number of tokens merged at each block, 13 for DeiT as published"},
}


def _evit(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of EViT: ceil(keep_rate * current), the fused token counted, at blocks 3, 6, 9."""
    schedule = {"name": "stages", "keep_rate": given["keep_rate"], "of": "current", "rounding": "ceil"}
    schedule |= {"blocks": list(given["blocks"])} if given["blocks"] else {}
    return {"selector": {"name": "evit"}, "treatment": {"name": "fuse" if given["fuse_token"] else "remove"}, "schedule": schedule}


def _a_vit(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of A-ViT as released: halted class tokens are hidden."""
    selector = {"name": "a_vit", "gamma": float(given["gamma"]), "beta": float(given["beta"]), "variant": "released"}
    return {"selector": selector, "treatment": {"name": "preserve"}, "schedule": {"name": "free"}}


def _tome(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of ToMe: r tokens merge at every block, attention is proportional."""
    schedule = {"name": "per_block", "remove": given["r"], "start": 0, "align": False}
    return {"selector": {"name": "tome"}, "treatment": {"name": "merge"}, "schedule": schedule}


_GROUPS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"evit": _evit, "a_vit": _a_vit, "tome": _tome}


def _of_evit(release: Release) -> dict[str, Any]:
    """Return what EViT's training script stored."""
    args = release.args
    if "base_keep_rate" not in args:
        return {}
    found = {"method": "evit", "keep_rate": float(args["base_keep_rate"]), "fuse_token": bool(args.get("fuse_token", False))}
    blocks = args.get("drop_loc")
    return found if blocks is None else {**found, "blocks": list(ast.literal_eval(blocks) if isinstance(blocks, str) else blocks)}


def _of_a_vit(release: Release) -> dict[str, Any]:
    """Return what the name of A-ViT's file says, MODEL-GAMMA-BETA.pth, or its training script stored."""
    if (found := _A_VIT_FILE.fullmatch(release.name)) is not None:
        return {"method": "a_vit", "gamma": float(found[1]), "beta": float(found[2])}
    if not {"gate_scale", "gate_center"} <= set(release.args):
        return {}
    return {"method": "a_vit", "gamma": float(release.args["gate_scale"]), "beta": float(release.args["gate_center"])}


# What a file says of its method, by those who can tell; the first that finds something counts.
READERS: list[Callable[[Release], dict[str, Any]]] = [_of_evit, _of_a_vit, lambda release: said(release.args)]


@register("layout", "deit")
class PlainViT(Layout):
    """Reads timm's keys of a DeiT or ViT with a class token, and no others.

    Keys do not tell the method. Its `args` (EViT, A-ViT, TokenReduction) or its name may; else it is asked for: `evit`, `a_vit`, `tome`,
    `dense`, or any other selector without weights of its own. That runs as `tokenprune.prune(model, METHOD)` does; `options` are the
    selector's, `keep_rate` and `blocks` the schedule's. A run of TokenReduction has its own counts, see `arguments`.
    """

    asks = {"method": "the method that the file was trained with or is to run under: evit, a_vit, tome, dense, topk, ats, kmedoids, ..."}
    plain = True
    offers = {
        **{name: None for needed in _NEEDS.values() for name in needed},
        "blocks": None,
        "options": {},
    }

    @staticmethod
    def recognises(state: Mapping[str, Tensor]) -> bool:
        """Tell whether the keys are a plain ViT's, with a norm behind the last block and a head."""
        return is_vit(state) and not foreign(state) and "norm.weight" in state and "head.weight" in state

    def known(self, release: Release) -> dict[str, Any]:
        """Return the method and its settings, where the file's `args` or its name say them."""
        return next((found for reader in READERS if (found := reader(release))), {})

    def convert(self, release: Release, given: Mapping[str, Any]) -> Imported:
        """Return the settings and weights of a file.

        Raises:
            CheckpointMismatch: The method does not exist, has weights of its own, or lacks a setting; or a setting is of another method.
        """
        backbone = backbone_of(release.state, release.name)
        groups = of_run(release.args, release.name, backbone, given) if said(release.args) else _groups(release, given)
        settings = {"backbone": backbone, **groups}
        return Imported(settings, under("backbone", release.state), classes_of(release.state, release.name))


def _groups(release: Release, given: Mapping[str, Any]) -> dict[str, Any]:
    method = given["method"]
    if method != DENSE and method not in names("selector"):
        raise CheckpointMismatch(f"checkpoint {release.name}: no method {method!r}; allowed: {DENSE}, {', '.join(names('selector'))}")
    needs = _NEEDS.get(method, {})
    usable = {*needs, "blocks"} if method == "evit" else {*needs} if needs or method == DENSE else {"keep_rate", "blocks", "options"}
    problems = [f"{name} is not given, and the file does not say it: {words}" for name, words in needs.items() if given[name] is None]
    foreign_to = [name for name in PlainViT.offers if name not in usable and given[name] not in (None, {})]
    problems += [f"{name} is no setting of method={method}" for name in foreign_to]
    if problems:
        listed = ", ".join(sorted(usable)) or "none"
        raise CheckpointMismatch(f"checkpoint {release.name} (layout deit): {'; '.join(problems)}. Settings of method={method}: {listed}")
    if method == DENSE:
        return {}
    return _GROUPS[method](given) if method in _GROUPS else _as_published(release, method, given)


def _as_published(release: Release, method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of a selector as its paper has them, with what is given of it."""
    kind = get("selector", method)
    if kind.learns:
        raise CheckpointMismatch(
            f"checkpoint {release.name} holds a plain ViT, and method {method!r} has weights of its own, which it does not hold; allowed:"
            f" {DENSE}, and methods without such weights (evit, tome, topk, ...)"
        )
    groups = {name: {"name": spec} if isinstance(spec, str) else dict(spec) for name, spec in kind.published.items()}
    groups["schedule"] |= {name: given[name] for name in ("keep_rate", "blocks") if given[name] is not None}
    return {"selector": {"name": method, **given["options"]}, **groups}
