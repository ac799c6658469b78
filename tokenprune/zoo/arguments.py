"""Reads the arguments of TokenReduction's training runs (Haurum et al., ICCVW 2023), which say what its plain keys do not.

Its files hold a Namespace `args`: `model` (`topk_small_patch16_224`), `keep_rate` and `reduction_loc` as lists, and a few options.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenprune.errors import CheckpointMismatch
from tokenprune.zoo.deit import positions_of

METHODS = {  # first word of `args.model`: the selector here
    "ats": "ats",
    "deit": "dense",
    "dpcknn": "dpc_knn",
    "dyvit": "dynamicvit",
    "evit": "evit",
    "heuristic": "radial",
    "kmedoids": "kmedoids",
    "patchmerger": "patch_merger",
    "sinkhorn": "sinkhorn",
    "sit": "sit",
    "tome": "tome",
    "topk": "topk",
}
PUBLISHED_BLOCKS = (3, 6, 9)
_OPTIONS = {  # of the selectors whose released behaviour is an option
    "ats": {"variant": "token_reduction"},
    "dpc_knn": {"variant": "released"},
    "kmedoids": {"variant": "released"},
    "sinkhorn": {"variant": "released"},
}
_TREATMENTS = {"dpc_knn": {"name": "merge", "proportional": False}, "evit": {"name": "fuse"}, "tome": {"name": "merge"}}
_RENAMED = {"sinkhorn": {"sinkhorn_eps": "eps", "cluster_iters": "iterations"}, "kmedoids": {"cluster_iters": "iterations"}}
_NEIGHBOURS = 5


def said(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the arguments of a run of TokenReduction say: `method`, `keep_rate`, `blocks` and `options`; {} of another's run."""
    method = METHODS.get(str(args.get("model", "")).split("_")[0])
    if method is None or "reduction_loc" not in args:
        return {}
    found: dict[str, Any] = {"method": method}
    if method == "dense":
        return found
    rates = list(args.get("keep_rate") or [])
    found |= {"keep_rate": rates[0] if len(rates) == 1 else rates} if rates else {}
    found |= {"blocks": list(args["reduction_loc"])} if args["reduction_loc"] else {}
    options = {own: args[name] for name, own in _RENAMED.get(method, {}).items() if name in args}
    options |= {"weighting": "equal"} if method == "dpc_knn" and args.get("equal_weight") else {}
    return {**found, **({"options": options} if options else {})}


def refuse(args: Mapping[str, Any], file: str) -> None:
    """Raise for a variant of TokenReduction's methods that is not imported.

    Raises:
        CheckpointMismatch: The arguments have one; says which and why.
    """
    method, neighbours = said(args).get("method"), args.get("k_neighbors", _NEIGHBOURS)
    found = [
        (method == "kmedoids" and args.get("equal_weight"), "equal_weight: its first medoid is drawn anew, so that no number repeats"),
        (method == "dpc_knn" and neighbours != _NEIGHBOURS, f"k_neighbors={neighbours}: densities here are of {_NEIGHBOURS}"),
        (method == "radial", "a fixed pattern: its radii give other counts than a keep rate; method=radial is this project's own"),
    ]
    if reasons := [reason for wrong, reason in found if wrong]:
        raise CheckpointMismatch(f"checkpoint {file} was trained by TokenReduction with {'; '.join(reasons)}. It is not imported")


def of_run(args: Mapping[str, Any], file: str, backbone: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups selector, treatment and schedule of a run of TokenReduction; {} of a dense one.

    Args:
        args: Arguments of the run.
        file: Name of its file, for errors.
        backbone: Group `backbone` of its model.
        given: `method`, `keep_rate`, `blocks` (None for the published ones) and `options`.

    Raises:
        CheckpointMismatch: See `refuse`; or the arguments lack the keep rate.
    """
    refuse(args, file)
    method, rate, blocks = given["method"], given["keep_rate"], given["blocks"] or PUBLISHED_BLOCKS
    if rate is None and method != "dense":
        raise CheckpointMismatch(f"checkpoint {file} was trained by TokenReduction, and its arguments have no keep_rate; give keep_rate=.7")
    positions = positions_of(backbone)
    return settings_of(method, rate, blocks, positions, **given["options"])


def settings_of(method: str, keep_rate: float | Sequence[float], blocks: Sequence[int], positions: int, **options: Any) -> dict[str, Any]:
    """Return the groups selector, treatment and schedule of one of TokenReduction's methods; {} for its dense models.

    Args:
        method: Name of the selector here.
        keep_rate: The share r of N that stays, to the power of the stage: int(N r^k). A list holds a count, or a share of N below 1, for
            each stage.
        blocks: Blocks that decide.
        positions: N.
        options: Of the selector.
    """
    if method == "dense":
        return {}
    return {
        "selector": {"name": method, **_OPTIONS.get(method, {}), **options},
        "treatment": _TREATMENTS.get(method, {"name": "remove"}),
        "schedule": _schedule(method, keep_rate, list(blocks), positions),
    }


def counts_of(keep_rate: float | Sequence[float], blocks: Sequence[int], positions: int) -> list[int]:
    """Return the count of each stage as TokenReduction's code computes it."""
    if isinstance(keep_rate, Sequence):
        return [int(n * positions) if n < 1 else int(n) for n in keep_rate]
    return [int(positions * float(keep_rate) ** stage) for stage in range(1, len(blocks) + 1)]


def _schedule(method: str, keep_rate: float | Sequence[float], blocks: list[int], positions: int) -> dict[str, Any]:
    counts = counts_of(keep_rate, blocks, positions)
    possible = _merged(counts, positions) if method == "tome" else counts
    if isinstance(keep_rate, Sequence) or possible != counts:
        return {"name": "explicit", "keep": dict(zip(blocks, possible, strict=True))}
    return {"name": "stages", "keep_rate": keep_rate, "blocks": blocks, "of": "original", "rounding": "reference"}


def _merged(counts: Sequence[int], positions: int) -> list[int]:
    """Return the counts that ToMe reaches: each stage merges the difference of two counts, and at most half of what is there."""
    left, wanted, found = positions, positions, []
    for count in counts:
        left, wanted = left - min(wanted - count, left // 2), count
        found.append(left)
    return found
