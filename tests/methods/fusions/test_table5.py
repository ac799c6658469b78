"""Cropr's Table 5 from built models on the meta device: EVA-02-L/16 at 512 px, 150 classes, R = 40 after blocks 1 to 22.

Its FLOPs are weight layers, norms and the head on every patch; attention products are not in them. The reconstruction to two decimals
(methods_cropr_merging.md section 0) leaves out the final norm, the norms of the fusions and, of parameters, the routers' queries.
"""

import csv
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import tokenprune
from tests.helpers.exits import Exits
from tests.helpers.pairings import images, pruned
from tokenprune.backbones.vit import build_vit
from tokenprune.measure.macs import planned_macs
from tokenprune.tasks.base import parameters_of

D, N, K, P = 1024, 1024, 150, 1
MODULES = 22
PLAN = {"name": "per_block", "remove": 40, "start": 1, "stop": 23}
PAPER = Path(__file__).parents[3].parent / "shared" / "reference" / "paper" / "cropr_table5_fusion.csv"
ROWS = {
    "No pruning": (None, None, 311.04, 304.39),
    "Cross-Attn": ("cropr", "cross_attention", 184.21, 319.09),
    "Token Concat": ("cropr", "preserve", 172.10, 304.39),
    "Cross-Attn + Concat": ("cropr", "cross_attention_concat", 186.06, 319.09),
    "MHSA + Concat": ("cropr", "mhsa_concat", 186.07, 318.04),
    "DToP": ("dtop", "remove", None, 307.82),
    "LLF": ("cropr", "last_layer_fusion", 183.20, 304.39),
}
LEFT = 143  # patches in the last block where nothing returns: 1024 - 41 - 21 x 40


@lru_cache
def built(name):
    selector, treatment, *_ = ROWS[name]
    axes = {} if selector is None else {"selector": selector, "treatment": treatment, "schedule": PLAN}
    with torch.device("meta"):
        vit = build_vit({"model": "eva02_large_patch14_224", "img_size": 512, "patch_size": 16, "repatch": True, "pool": "avg"}, K)
        model = tokenprune.prune(vit.eval(), **axes)
    return model, planned_macs(model, N)


def printed(name):
    """GMAC as the paper counts: DToP's heads on the way count as heads, a router's scores (0.014) do not."""
    model, macs = built(name)
    on_the_way = macs.selector if name == "DToP" else 0.0
    return (macs.linear + macs.norm + N * D * K + on_the_way) / 1e9


def parameters(name):
    """Millions, deployed."""
    return parameters_of(built(name)[0]) / 1e6


@pytest.mark.system
def test_all_seven_rows_are_as_printed():
    if not PAPER.is_file():
        pytest.skip(f"the paper's numbers are not here: {PAPER}")
    with PAPER.open(newline="") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert set(lines) == set(ROWS)
    for name, line in lines.items():
        assert round(printed(name)) == int(line["gflops"]) and round(parameters(name)) == int(line["params_million"]), name


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[2] is not None])
def test_two_decimals_of_the_reconstruction(name):
    """Without the final norm and the norms of the fusion. Cropr's 22 queries are 0.0225 million parameters more."""
    model, _ = built(name)
    inner = 0.0 if model.fusion is None else model.fusion.macs(LEFT, N, P).norm
    assert round(printed(name) - (5 * D * (N + P) + inner) / 1e9, 2) == ROWS[name][2]
    queries = MODULES * D / 1e6 if len(model.selectors) else 0.0
    assert round(parameters(name) - queries, 2) == ROWS[name][3]


def test_dtop_by_its_formula():
    """Heads and their norms on all that comes: 174.21. The reconstruction has 174.16; without these norms it would be 174.14."""
    coming = sum([1024, *(983 - 40 * i for i in range(21))])
    concat = built("Token Concat")[1]
    assert printed("DToP") * 1e9 == pytest.approx(concat.linear + concat.norm + N * D * K + coming * (D * K + 5 * D), rel=1e-9)
    assert round(printed("DToP"), 2) == 174.21 and round(printed("DToP") - 5 * D * coming / 1e9, 2) == 174.14
    heads = MODULES * (2 * D + D * K + K)
    assert parameters_of(built("DToP")[0]) == parameters_of(built("No pruning")[0]) + heads and round(parameters("DToP"), 2) == 307.82


def test_scores_of_all_queries_and_of_their_sum():
    """Section 3.4, Figure 3b: 13.9 GMAC for 1024 queries, one a patch, and 0.014 for their sum; the heads are gone in both."""
    coming, found = sum([1024, *(983 - 40 * i for i in range(21))]), {}
    for aggregate in (False, True):
        with torch.device("meta"):
            vit = build_vit({"model": "eva02_large_patch14_224", "img_size": 512, "patch_size": 16, "repatch": True, "pool": "avg"}, K)
            asked = {"name": "cropr", "queries": "patches", "aggregate": aggregate}
            model = tokenprune.prune(vit.eval(), asked, "last_layer_fusion", PLAN).deploy()
            found[aggregate] = planned_macs(model, N).selector
        assert sum(p.numel() for p in model.selectors.parameters()) == MODULES * D * (1 if aggregate else N)
    assert found == {False: coming * D * N, True: coming * D}
    assert [round(found[True] / 1e9, 3), round(found[False] / 1e9, 1)] == [0.014, 13.9]


def test_the_fusions_by_their_formulas():
    """(parameters, weight MACs): Cross-Attn asks with N queries and has 144 keys, 1025 with Concat; MHSA has 1025 tokens."""
    block = 12 * D * D + 9 * D
    expected = {
        "Cross-Attn": (block + 6 * D + N * D + D * D + D, (10 + 1) * D * D * N + 2 * D * D * (LEFT + P)),
        "Cross-Attn + Concat": (block + 6 * D + N * D + D * D + D, (10 + 1) * D * D * N + 2 * D * D * (N + P)),
        "MHSA + Concat": (block + 4 * D + D * D + D, 13 * D * D * (N + P)),
    }
    for name, (weights, linear) in expected.items():
        model, macs = built(name)
        assert sum(p.numel() for p in model.fusion.parameters()) == weights
        assert macs.linear - built("Token Concat")[1].linear == linear == model.fusion.macs(LEFT, N, P).linear
        assert model.fusion.heads == 16 if hasattr(model.fusion, "heads") else model.fusion.block.attn.num_heads == 16


def test_every_row_prunes_after_blocks_1_to_22():
    for name, (selector, *_) in ROWS.items():
        model, macs = built(name)
        lengths = [round(share * N) + P for share in macs.kept_per_block]
        last = N + P if selector is None or name == "LLF" else LEFT + P
        assert lengths[-1] == last
        if selector is not None:
            assert lengths[:-1] == [1025, *range(984, 143, -40)] and list(model.selectors) == [str(b) for b in range(1, 23)]


@pytest.mark.parametrize("execution", ["masked", "gathered", "packed"])
@torch.no_grad()
def test_token_concat_shows_each_token_as_its_last_block_left_it(execution):
    model = pruned("random", "preserve", {"name": "per_block", "remove": 7, "start": 1, "stop": 5}, execution)
    exits = Exits(model)
    outputs = model.encode(images(2))
    assert {number: list(exits.left.values()).count(number) for number in (1, 2, 3, 4)} == {1: 16, 2: 14, 3: 14, 4: 14}
    for (image, place), token in exits.tokens.items():
        torch.testing.assert_close(outputs.map[image, place], model.family.norm(token), atol=1e-6, rtol=1e-6)
