"""The registry as a test matrix: every selector with every treatment, legal or refused."""

from functools import cache
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import tokenprune
from tokenprune.engine.legality import check_pairing
from tokenprune.engine.outputs import Outputs
from tokenprune.errors import IncompatiblePairing
from tokenprune.registry import get

DEPTH, SIDE, PATCH = 6, 32, 4  # 64 positions
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "topk": [{"score": "cls"}, {"score": "mean_query"}, {"score": "column_mean"}],
    "attn_topk": [{"score": "cls"}, {"score": "column_mean"}],
    "svit": [{"eval_mode": "threshold"}, {"eval_mode": "topk"}, {"eval_mode": "sample"}, {"gate": "complex"}],
    "spvit": [{"eval_mode": "threshold"}, {"eval_mode": "topk"}, {"eval_mode": "sample"}],
    "cropr": [{"queries": 3}, {"heads": 3, "select": "sampling", "salient": False}],
    "kmedoids": [{"variant": "fixed"}, {"variant": "released", "score": "cls"}],
    "dpc_knn": [{"weighting": "learned"}, {"weighting": "equal", "variant": "released"}],
    "sinkhorn": [{"variant": "fixed"}, {"variant": "released"}],
    "ats": [{"variant": "official"}, {"variant": "token_reduction"}],
    "patch_merger": [{"scaled": False}, {"scaled": True}],
    "adavit": [{"variant": "fixed"}, {"variant": "released"}],
    # With the paper's beta nothing halts in a model this small.
    "mctf": [{"mode": "ahead"}, {"mode": "precise"}, {"mode": "after", "pool": "mass", "both_ways": False}],
    "ppt": [{"threshold": 1.2e-4}],  # some images are pruned, others pooled
    "algm": [{"threshold": 0.2}],  # in a model this small neighbours are no more alike than others
    "a_vit": [{"gamma": 5.0, "beta": 1.0}, {"gamma": 5.0, "beta": 1.0, "variant": "released"}],
}
SCHEDULES = {
    "stages": {"name": "stages", "blocks": [1, 2, 4], "keep_rate": 0.7},
    "current": {"name": "stages", "blocks": [1, 3, 4], "keep_rate": 0.7, "of": "current", "rounding": "ceil"},
    "per_block": {"name": "per_block", "remove": 7, "start": 1, "stop": 5},
}


def selectors() -> list[dict[str, Any]]:
    """Every registered selector, with the options that change what it computes."""
    return [{"name": name, **options} for name in tokenprune.list_plugins("selector") for options in OPTIONS.get(name, [{}])]


def treatments() -> list[str]:
    """Every registered treatment that drops something."""
    return [name for name in tokenprune.list_plugins("treatment") if name != "none"]


def verdict(selector: dict[str, Any], treatment: str) -> str | None:
    """Return why a pairing is refused, or None."""
    try:
        check_pairing(selector, treatment, SCHEDULES["stages"], depth=DEPTH, positions=64)
    except IncompatiblePairing as error:
        return str(error)
    return None


def pairings(legal: bool = True) -> list[tuple[dict[str, Any], str]]:
    """Return all pairings of one verdict."""
    return [(s, t) for s in selectors() for t in treatments() if (verdict(s, t) is None) == legal]


def timed(pairs: list[tuple[dict[str, Any], str]]) -> list[Any]:
    """Return pairings as test cases: `mlerp`, which merges as `merge` does from a block on, is slow but for one selector of each kind."""
    return [_case(pair, _takes_long(*pair)) for pair in pairs]


def sampled(pairs: list[tuple[dict[str, Any], str]]) -> list[Any]:
    """Return pairings as test cases: those of `each_selector_once` always run, the others are slow tests.

    It is for laws that hold within one execution. That the executions agree is asked of every pairing (`timed`).
    """
    return [_case(pair, _takes_long(*pair) or pair not in _often()) for pair in pairs]


@cache
def _often() -> list[tuple[dict[str, Any], str]]:
    return each_selector_once()


def _case(pair: tuple[dict[str, Any], str], slow: bool) -> Any:
    return pytest.param(*pair, marks=pytest.mark.slow) if slow else pair


def _takes_long(selector: dict[str, Any], treatment: str) -> bool:
    return treatment == "mlerp" and selector["name"] not in ("tofu", "evit", "svit", "frequency", "mctf")


def representatives() -> list[tuple[dict[str, Any], str]]:
    """Return the first legal pairing of each treatment with selectors of equal site and facts, for laws that read the engine's own records.

    tests/properties/test_pairings.py holds the engine to all pairings; a measure that reads its records needs each path through it once.
    """
    found: dict[tuple, tuple[dict[str, Any], str]] = {}
    for selector, treatment in pairings():
        kind = get("selector", selector["name"])
        facts = (kind.budget, kind.merging, kind.mixing, kind.saves_computation, kind.reads_previous_block)
        found.setdefault((treatment, kind.site, *facts), (selector, treatment))
    return list(found.values())


def each_selector_once() -> list[tuple[dict[str, Any], str]]:
    """Return every selector with the treatment `remove`, which takes them all, and the representatives."""
    removed = [(selector, "remove") for selector in selectors()]
    return removed + [pairing for pairing in representatives() if pairing not in removed]


def label(value: Any) -> str | None:
    """Name a test case."""
    if isinstance(value, dict):
        return "-".join(str(v) for v in value.values())
    return value if isinstance(value, str) else None


def tiny_vit(**options: Any) -> VisionTransformer:
    """Return a seeded ViT of 6 blocks and 64 positions whose attention is not flat."""
    torch.manual_seed(0)
    size = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 24, "depth": DEPTH, "num_heads": 3, "num_classes": 5}
    vit = VisionTransformer(**{**size, "dynamic_img_size": True, **options})
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(8.0)
            block.attn.qkv.bias.normal_(std=0.5)
    return vit.eval()


def images(count: int = 3, side: int = SIDE, seed: int = 1) -> torch.Tensor:
    """Return seeded images that differ in contrast, so that dynamic methods keep different counts."""
    generator = torch.Generator().manual_seed(seed)
    contrast = torch.linspace(0.3, 2.0, count).view(-1, 1, 1, 1)
    return torch.randn(count, 3, side, side, generator=generator) * contrast


def encode_checked(model: tokenprune.PrunedViT, x: torch.Tensor) -> Outputs:
    """Return `model.encode(x)`, run block by block; what each state says of itself is compared with its tensors."""
    state, usage = model.start(x), ()
    state.check()
    for block in range(model.depth):
        state, used = model.run(state, block, block + 1)
        state.check()
        usage += used
    return model.finish(state, usage)


def pruned(
    selector: Any, treatment: Any, schedule: Any = "stages", execution: str = "auto", vit: Any = None, **options: Any
) -> tokenprune.PrunedViT:
    """Return a tiny pruned ViT in eval mode with seeded selector parameters."""
    vit = vit if vit is not None else tiny_vit()
    plan = SCHEDULES.get(schedule, schedule) if isinstance(schedule, str) else schedule
    torch.manual_seed(3)
    return tokenprune.prune(vit, selector, treatment, plan, execution=execution, **options)
