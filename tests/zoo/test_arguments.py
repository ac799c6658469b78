"""Arguments of TokenReduction's runs: its methods with plain keys, its counts, and its ATS by the definition."""

import pytest
import torch

import tokenprune
from tests.helpers.goldens import filled, golden, imported, pictures
from tests.helpers.pairings import tiny_vit
from tests.zoo.layouts.test_mae import tiny
from tokenprune.backbones.vit import build_vit
from tokenprune.errors import CheckpointMismatch
from tokenprune.methods.selectors.ats import raster_transform
from tokenprune.zoo.arguments import METHODS, counts_of, refuse, said, settings_of
from tokenprune.zoo.deit import backbone_of

RUN = {"model": "topk_small_patch16_224", "keep_rate": [0.7], "reduction_loc": [3, 6, 9]}


def test_what_a_run_says():
    assert said(RUN) == {"method": "topk", "keep_rate": 0.7, "blocks": [3, 6, 9]}
    assert said({**RUN, "model": "kmedoids_tiny_patch16_224", "cluster_iters": 3})["options"] == {"iterations": 3}
    assert said({**RUN, "model": "dpcknn_tiny_patch16_224", "equal_weight": True})["options"] == {"weighting": "equal"}
    assert said({**RUN, "keep_rate": [0.9, 0.5, 0.2]})["keep_rate"] == [0.9, 0.5, 0.2]
    assert said({"model": "deit_tiny_patch16_224_local", "reduction_loc": [], "keep_rate": []}) == {"method": "dense"}
    assert said({"model": "deit_small_patch16_shrink_base", "base_keep_rate": 0.7}) == said({}) == {}  # EViT's own run; none


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"model": "heuristic_tiny_patch16_224"}, "fixed pattern"),
        ({"model": "kmedoids_tiny_patch16_224", "equal_weight": True}, "drawn anew"),
    ],
    ids=["heuristic", "kmedoids"],
)
def test_what_is_not_imported_is_refused(args, words):
    with pytest.raises(CheckpointMismatch, match=words):
        refuse({**RUN, **args}, "best_checkpoint.pth")


def test_counts_are_cut_off_floats():
    assert counts_of(0.7, [3, 6, 9], 196) == [137, 96, 67] and counts_of(0.9, [3, 6, 9], 196) == [176, 158, 142]
    assert counts_of([0.5, 30], [3, 6], 196) == [98, 30]


@pytest.mark.parametrize("method", sorted(set(METHODS.values()) - {"dense", "radial"}))
@pytest.mark.parametrize("keep_rate", [0.7, 0.25, [0.5, 0.3, 0.2]], ids=str)
def test_every_method_keeps_as_many_tokens_as_its_counts_say(method, keep_rate):
    """ToMe cannot more than halve, and then merges the difference of two counts: 64 to 32, 20 and 17 where 16, 4 and 1 were wanted."""
    counts = counts_of(keep_rate, [1, 2, 4], 64)
    wanted = [32, 20, 17] if (method, keep_rate) == ("tome", 0.25) else counts
    model = tokenprune.prune(tiny_vit(), **settings_of(method, keep_rate, [1, 2, 4], 64))
    assert [budget.keep for budget in model.budgets(64).values()] == wanted


@pytest.mark.parametrize("execution", ["gathered", "masked", "packed"])
def test_kmedoids_is_the_authors(execution):
    name = "tr_kmedoids_t"
    state, numbers = filled(f"methods/dev/keys_{name}.json"), golden(f"methods/dev/{name}.safetensors")
    run = said({**RUN, "model": "kmedoids_tiny_patch16_224", "cluster_iters": 3})
    settings = settings_of(run["method"], run["keep_rate"], run["blocks"], 196, **run["options"])
    model, entering = tokenprune.prune(build_vit(backbone_of(state, name), 1000), **settings, execution=execution).eval(), {}
    model.backbone.load_state_dict(state)
    model.watch = lambda block, state: entering.update({block: state.index.masked_fill(~state.live, 999)})
    with torch.no_grad():
        torch.testing.assert_close(model(pictures()), numbers["logits"], atol=1e-5, rtol=0)
    theirs = torch.arange(196).expand(4, -1)
    for block, count in ((3, 137), (6, 96), (9, 67)):
        theirs = theirs.gather(1, numbers[f"centre_block{block}"].long())
        assert torch.equal(entering[block].sort(1).values[:, :count], theirs.sort(1).values)


@pytest.mark.parametrize("samples", [1, 4, 20, 40])
def test_ats_in_raster_order_equals_loops(samples):
    """Points 1/2K, 3/2K, ... below 1 - 1/2K, K = samples + 1, each to the nearest value of the sums of scores so far."""
    generator = torch.Generator().manual_seed(samples)
    for _ in range(20):
        score = torch.rand(1, 24, generator=generator) ** 4
        live = torch.rand(1, 24, generator=generator) > 0.3
        score = (score * live) / (score * live).sum()
        total, sums = 0.0, {}
        for slot in live[0].nonzero().flatten().tolist():
            total += score[0, slot].item()
            sums[slot] = total
        K, wanted = samples + 1, set()
        for i in range(K - 1):
            point = (1 + 2 * i) / (2 * K)
            wanted.add(min(sums, key=lambda slot: abs(sums[slot] - point)))  # noqa: B023
        assert set(raster_transform(score, live, samples)[0].nonzero().flatten().tolist()) == wanted


def plain(args, folder, **given):
    """Import a tiny plain DeiT of a run of TokenReduction."""
    state = {**tiny(), "norm.weight": torch.ones(64)}
    del state["fc_norm.weight"]
    return imported(folder, state, "best_checkpoint.pth", args, **given)


def test_a_plain_file_of_a_run_says_its_method(tmp_path):
    """EViT's counts are int(r^k N) of the first tokens there, and ceil(r n) of the present ones in its authors' own runs."""
    found = plain({**RUN, "model": "evit_tiny_patch16_224"}, tmp_path).settings
    assert found["schedule"] == {"name": "stages", "keep_rate": 0.7, "blocks": [3, 6, 9], "of": "original", "rounding": "reference"}
    assert found["selector"] == {"name": "evit"} and found["treatment"] == {"name": "fuse"}
    assert plain({**RUN, "model": "ats_tiny_patch16_224"}, tmp_path).settings["selector"] == {"name": "ats", "variant": "token_reduction"}
    assert "selector" not in plain({**RUN, "model": "deit_tiny_patch16_224_local", "keep_rate": []}, tmp_path).settings


def test_a_run_without_a_rate_needs_one(tmp_path):
    args = {**RUN, "keep_rate": []}
    with pytest.raises(CheckpointMismatch, match="keep_rate; give keep_rate"):
        plain(args, tmp_path)
    assert plain(args, tmp_path, keep_rate=0.5).settings["schedule"]["keep_rate"] == 0.5
    with pytest.raises(CheckpointMismatch, match="method is 'tome', and the file itself says 'topk'"):
        plain(args, tmp_path, method="tome")
