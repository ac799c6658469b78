"""Cropr as it is deployed, what it starts from, and the counts of parameters and MACs that the paper and its logs print."""

import pytest
import timm
import torch
from torch import nn

import tokenprune
from tests.helpers.pairings import images, pruned, tiny_vit
from tests.helpers.routers import LLF, PER_BLOCK, VARIANTS, observed, router
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.selector import Context
from tokenprune.errors import InvalidConfig
from tokenprune.measure.macs import planned_macs
from tokenprune.methods.selectors.cropr import CroprRouter


@pytest.mark.parametrize("options", [*VARIANTS, {"heads": 3, "select": "sampling", "salient": False, "queries": 4}], ids=str)
@torch.no_grad()
def test_deployed_routers_score_alike(options):
    made = router(**options).double().train()
    deployed = made.deploy().eval()
    seen, budget = observed(), Budget(1, 4, 9, 4 / 9)
    seen = Observation(seen.state.replace(prefix=seen.state.prefix.double(), tokens=seen.tokens.double()), 1)
    full, lean = made.eval().score(seen, budget), deployed.score(seen, budget)
    torch.testing.assert_close(lean.score, full.score, atol=1e-12, rtol=1e-12)
    assert torch.equal(lean.keep, full.keep) and deployed.caveat == ""
    heads, own = options.get("heads", 1), 12 + (12 * 12 + 2 * 12 if options.get("heads") else 0)
    assert sum(p.numel() for p in deployed.parameters()) == own and all(p.requires_grad for p in deployed.parameters())
    again = deployed.deploy().eval()
    assert torch.equal(again.score(seen, budget).score, lean.score) and sum(p.numel() for p in again.parameters()) == own
    assert deployed.macs(9) == 9 * (12 + (144 if heads > 1 else 0)) and made.macs(9) - deployed.macs(9) == 9 * 12 * (len(made.query) - 1)
    assert made.auxiliary is not None and deployed.train().score(seen, budget).notes == {}


def test_a_deployed_model_keeps_its_predictions_and_the_original_its_heads():
    x = images(2)
    for options in VARIANTS:
        model = pruned({"name": "cropr", **options}, LLF, PER_BLOCK)
        deployed = model.deploy()
        with torch.no_grad():
            torch.testing.assert_close(deployed(x), model(x), atol=1e-5, rtol=1e-5)
            assert deployed.encode(x).aux == () == model.encode(x).aux
        assert all(s.auxiliary is not None for s in model.selectors.values())
        assert all(s.auxiliary is None for s in deployed.selectors.values())


@torch.no_grad()
def test_without_aggregation_a_deployed_router_asks_all_its_queries():
    """It chooses alike, at Nq times the cost; only the head is gone."""
    for options in ({"queries": 5}, {"queries": 5, "heads": 3}):
        made, seen, budget = router(**options, aggregate=False).train(), observed(), Budget(1, 4, 9, 4 / 9)
        slow, fast = made.deploy().eval(), router(**options).train().deploy().eval()
        assert slow.auxiliary is None and slow.query.shape == (5, 12) and fast.query.shape == (1, 12)
        a, b = slow.score(seen, budget), fast.score(seen, budget)
        torch.testing.assert_close(a.score, b.score, atol=1e-5, rtol=1e-5)
        assert torch.equal(a.keep, b.keep) and slow.macs(9) - fast.macs(9) == 9 * 4 * 12


def test_first_weights():
    """tf's truncated normal has 0.88 of the standard deviation that it is given."""
    made = CroprRouter(Context(256, 4, 1, Budget(1, 4, 9, 4 / 9), 6, 1, 50), queries=200, heads=4)
    query, std = made.query.detach(), 256**-0.5
    assert query.abs().max() <= 2 * std and query.std() == pytest.approx(0.88 * std, rel=0.02) and abs(query.mean()) < 0.02 * std
    linear = [m for m in made.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 7 and all(m.weight.std().item() == pytest.approx(0.02, rel=0.05) for m in linear)
    assert [m.bias is not None for m in linear] == [False, False, False, True, True, True, True]
    assert all((m.bias == 0).all() for m in linear if m.bias is not None)
    norms = {name: m.eps for name, m in made.named_modules() if isinstance(m, nn.LayerNorm)}
    assert norms == {"norm": 1e-6, "auxiliary.norm": 1e-6, "auxiliary.head.0": 1e-5}


def large(selector=None, treatment=LLF, schedule=None, **options):
    """ViT-L/16 with Cropr's pooling, and its planned MACs, on the meta device."""
    with torch.device("meta"):
        vit = timm.create_model("vit_large_patch16_224", global_pool="avg", **options).eval()
        model = tokenprune.prune(vit, selector, treatment if selector else None, schedule)
        return model, planned_macs(model, 196)


def size(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_those_of_the_released_logs():
    model, _ = large("cropr", schedule={"name": PER_BLOCK, "remove": 8})
    assert len(model.selectors) == 22 and {size(s) for s in model.selectors.values()} == {9_423_848}
    assert size(model.backbone) == 304_326_632 and size(model) == 511_651_288
    deployed = model.deploy()
    assert {size(s) for s in deployed.selectors.values()} == {1024} and size(deployed) - size(model.backbone) == 22 * 1024 == 22_528
    with torch.device("meta"):
        segmenting = CroprRouter(Context(1024, 16, 1, Budget(1, 4, 9, 4 / 9), 24, 1, 150), queries=1024)
    assert size(segmenting) == 9_600_150


def test_macs_of_table_4():
    """34.2 and 36.8: weight layers without the +1 of the schedule; the latter with the projection of keys, class token included."""
    plan = {"name": PER_BLOCK, "remove": 8, "align": False}
    _, simple = large("cropr", schedule=plan)
    model, mha = large({"name": "cropr", "heads": 16}, schedule=plan)
    slots = [196 - 8 * i for i in range(22)]
    assert mha.linear == simple.linear and simple.linear / 1e9 == pytest.approx(34.18, abs=0.005)
    assert simple.selector == sum(slots) * 1024 and mha.selector == sum(slots) * (1024**2 + 1024)
    assert (mha.linear + sum(n + 1 for n in slots) * 1024**2) / 1e9 == pytest.approx(36.79, abs=0.005)
    assert round((mha.linear + mha.selector) / 1e9, 1) == 36.8 and round((simple.linear + simple.selector) / 1e9, 1) == 34.2
    assert model.deploy().selectors["1"].macs(196) == model.selectors["1"].macs(196)


def test_lengths_that_enter_the_blocks():
    """R = 16 of 196 tokens over 12 blocks with Last Layer Fusion, run and not planned."""
    vit = timm.create_model("vit_tiny_patch16_224", embed_dim=24, num_heads=3, num_classes=2).eval()
    model, lengths = tokenprune.prune(vit, "cropr", schedule={"name": PER_BLOCK, "remove": 16}), []
    model.watch = lambda block, state: lengths.append(state.sequence().shape[1])
    outputs = model.encode(torch.randn(1, 3, 224, 224))
    assert lengths == [197, 180, 164, 148, 132, 116, 100, 84, 68, 52, 36, 197]
    assert sorted(outputs.state.index[0].tolist()) == list(range(196)) and outputs.present.all()


def test_a_dense_model_keeps_the_drop_path_of_its_last_block():
    vit = tiny_vit(drop_path_rate=0.5)
    fused, dense = pruned("cropr", LLF, PER_BLOCK, vit=vit).train(), tokenprune.prune(vit).train()
    x = torch.randn(8, 65, 24)

    def spread(call):
        torch.manual_seed(0)
        return float(torch.stack([call(x) for _ in range(4)]).std(0).max().detach())

    assert spread(fused.family.blocks[-1].feed) == 0 < spread(dense.family.blocks[-1].feed)
    assert spread(vit.blocks[-1]) > 0 and spread(fused.family.blocks[-2].feed) > 0


def test_who_cannot_learn_says_so():
    assert pruned("cropr", LLF, PER_BLOCK).selectors["1"].caveat == ""
    untaught = pruned("cropr", LLF, PER_BLOCK, vit=tiny_vit(num_classes=0), losses={"auxiliary": {}}).train()
    assert all("stay random" in s.caveat and size(s) == 24 for s in untaught.selectors.values())
    outputs = untaught.encode(images(2))
    assert outputs.aux == () and untaught.losses(outputs, targets=torch.arange(2)) == {}


@pytest.mark.parametrize(
    ("options", "text"),
    [({"queries": 0}, "queries is 0; allowed: >= 1"), ({"heads": 5}, "heads is 5; allowed: 1, or a divisor of the 24"),
     ({"heads": 0}, "heads is 0"), ({"select": "top"}, "select is 'top'; allowed: topk, sampling")],
)  # fmt: skip
def test_wrong_options_are_refused(options, text):
    with pytest.raises(InvalidConfig, match=text):
        pruned({"name": "cropr", **options}, LLF, PER_BLOCK)


def test_what_is_exported_holds_nothing_that_only_training_needs(tmp_path):
    from tokenprune.cli import export

    options = {"name": "cropr", "queries": 2, "heads": 3}
    model = pruned(options, LLF, {"name": PER_BLOCK, "remove": 9}, vit=tiny_vit(depth=3)).train()
    found = export.export(model, (32, 32), tmp_path / "m.pt2")
    assert max(found.values()) <= 1e-4
    held = torch.export.load(tmp_path / "m.pt2").state_dict
    names = {k.removeprefix("selectors.1.") for k in held if k.startswith("selectors.1.")}
    assert names == {"query", "norm.weight", "norm.bias", "key.weight"} and held["selectors.1.query"].shape == (1, 24)


def test_a_row_says_so_where_nothing_teaches_the_router():
    from tokenprune.runs.row import _caveats

    assert _caveats(pruned("cropr", LLF, PER_BLOCK)) == ["losses.auxiliary, which alone teaches the selector, is left out"]
    assert _caveats(pruned("cropr", LLF, PER_BLOCK, losses={"auxiliary": {}})) == _caveats(pruned("topk", "remove", "stages")) == []
