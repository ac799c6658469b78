"""Cropr by its equations: loops over images, queries and heads; counts of parameters and MACs that the paper and its logs print."""

import itertools
import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import tokenprune
from tests.pairings import images, pruned, tiny_vit
from tokenprune.errors import InvalidConfig
from tokenprune.measure.macs import planned_macs
from tokenprune.schedules import Budget
from tokenprune.selectors.base import Context
from tokenprune.selectors.cropr import CroprRouter
from tokenprune.selectors.observation import Observation
from tokenprune.state import TokenState

LLF, PER_BLOCK = "last_layer_fusion", "per_block"
VARIANTS = [{}, {"queries": 3}, {"heads": 3}, {"heads": 3, "queries": 2}, {"mlp": False}, {"salient": False}, {"select": "sampling"}]


def router(dim=12, classes=5, **options):
    """A router with seeded parameters, none of them at its first value of 0 or 1."""
    torch.manual_seed(7)
    context = Context(dim, 3, 1, Budget(1, 4, 9, 4 / 9), 6, 1, classes)
    made = CroprRouter(context, **options)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
    return made


def observed(batch=2, slots=9, dim=12, prefix=1, live=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    head, tokens = (torch.randn(batch, n, dim, generator=generator) for n in (prefix, slots))
    state = TokenState.start(head, tokens, (1, slots), torch.randn(batch, 3, 4, 4 * slots, generator=generator))
    return Observation(state if live is None else state.but(live=live, complete=False), 1)


def attended(queries, keys, values, heads):
    """X' of one image, query by query and head by head; keys, values (T,C)."""
    d = keys.shape[1] // heads
    rows = []
    for q in queries:
        parts = []
        for h in range(heads):
            at = slice(h * d, (h + 1) * d)
            weights = torch.tensor([math.exp(float(q[at] @ k[at]) / d**0.5) for k in keys])
            parts.append(sum(w * v[at] for w, v in zip(weights, values, strict=True)) / weights.sum())
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def predicted(made, tokens, heads):
    """The auxiliary logits (Nq,K) of one image from the tokens (T,C) that count."""
    queries, keys, values, head = made.query, tokens, tokens, made.auxiliary
    if heads > 1:
        normed = F.layer_norm(tokens, tokens.shape[-1:], made.norm.weight, made.norm.bias, 1e-6)
        queries, keys, values = queries @ made.ask.weight.T, normed @ made.key.weight.T, normed @ head.value.weight.T
    y = attended(queries, keys, values, heads)
    if heads > 1:
        y = y @ head.proj.weight.T + head.proj.bias
    if head.mlp is not None:
        hidden = F.layer_norm(y, y.shape[-1:], head.norm.weight, head.norm.bias, 1e-6)
        hidden = F.gelu(hidden @ head.mlp.fc1.weight.T + head.mlp.fc1.bias)
        y = y + hidden @ head.mlp.fc2.weight.T + head.mlp.fc2.bias
    norm, linear = head.head
    return F.layer_norm(y, y.shape[-1:], norm.weight, norm.bias, 1e-5) @ linear.weight.T + linear.bias


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_scores_and_predictions_by_hand(options):
    """All tokens that are there are attended to, prefix included; only patch tokens are scored, by sums over queries and heads."""
    made, budget, heads = router(**options), Budget(1, 4, 9, 4 / 9), options.get("heads", 1)
    live = torch.tensor([[1, 1, 0, 1, 1, 1, 0, 1, 1], [1] * 9]).bool()
    for seen, there in ((observed(), torch.ones_like(live)), (observed(live=live), live)):
        decision = made.train().score(seen, budget)
        logits = decision.notes["auxiliary"]
        assert logits.shape == ((2, 5) if made.query.shape[0] == 1 else (2, made.query.shape[0], 5))
        for image in range(2):
            tokens = torch.cat([seen.state.prefix[image], seen.tokens[image][there[image]]])
            torch.testing.assert_close(logits[image].view(-1, 5), predicted(made, tokens, heads), atol=1e-5, rtol=1e-4)
        keys, queries = seen.tokens, made.query
        if heads > 1:
            keys = F.layer_norm(keys, keys.shape[-1:], made.norm.weight, made.norm.bias, 1e-6) @ made.key.weight.T
            queries = queries @ made.ask.weight.T
        d = 12 // heads
        products = [(keys[..., h * d : (h + 1) * d] @ q[h * d : (h + 1) * d]) for q in queries for h in range(heads)]
        sign = -1 if options.get("salient") is False else 1
        torch.testing.assert_close(decision.score, sign * sum(products), atol=1e-5, rtol=1e-4)
        if options.get("select") != "sampling":
            ranked = (sign * sum(products)).masked_fill(~there, -math.inf).topk(4).indices
            assert torch.equal(decision.keep, torch.zeros_like(live).scatter(1, ranked, True))
        assert made.eval().score(seen, budget).notes == {}
        torch.testing.assert_close(made.score(seen, budget).score, decision.score)


@torch.no_grad()
def test_non_salient_drops_what_cropr_would_keep():
    seen, half = observed(slots=8), Budget(1, 4, 8, 0.5)
    assert torch.equal(router().eval().score(seen, half).keep, ~router(salient=False).eval().score(seen, half).keep)


@torch.no_grad()
def test_the_class_token_takes_no_part_in_the_ranking():
    made, seen, budget = router().train(), observed(), Budget(1, 4, 9, 4 / 9)
    other = Observation(seen.state.but(prefix=-1e3 * made.query.unsqueeze(0).expand(2, 1, -1)), 1)  # of the lowest logit there is
    assert torch.equal(made.score(seen, budget).keep, made.score(other, budget).keep)
    model = pruned("cropr", "remove", PER_BLOCK)
    assert model.encode(images(2)).prefix.shape == (2, 1, 24)


def test_sampling_draws_without_replacement_from_the_attention_distribution():
    """Brute force: a set's probability is the sum over the orders in which it can be drawn."""
    made, draws = router(select="sampling").train(), 20_000
    seen = observed(batch=1, slots=4)
    with torch.no_grad():
        p = (seen.tokens[0] @ made.query[0] / 12**0.5).softmax(0)
        many = Observation(TokenState.start(*(x.expand(draws, -1, -1) for x in (seen.state.prefix, seen.tokens)), (1, 4)), 1)
        keep = made.score(many, Budget(1, 2, 4, 0.5)).keep
    for a, b in itertools.combinations(range(4), 2):
        expected = float(p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]))
        found = float((keep[:, a] & keep[:, b]).float().mean())
        assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / draws) ** 0.5)
    assert (keep.sum(1) == 2).all()


@torch.no_grad()
def test_sampling_at_test_time_is_a_function_of_image_and_seed():
    seen, budget = observed(batch=6), Budget(1, 4, 9, 4 / 9)
    first, again, other = (router(select="sampling", seed=s).eval().score(seen, budget).keep for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, router().eval().score(seen, budget).keep)
    fresh = router(select="sampling").train()
    assert not torch.equal(fresh.score(seen, budget).keep, fresh.score(seen, budget).keep)
    fused = seen.state.but(index=seen.state.index.where(torch.arange(9) != 5, -1), placed=False, raster=False)
    assert router(select="sampling").eval().score(Observation(fused, 1), budget).keep[:, 5].all(), "what has no position is not drawn"


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_masked_gathered_and_packed_teach_the_same(options):
    """Dead slots are not attended to."""
    labels, found = torch.tensor([0, 4, 2]), {}
    for execution in ("masked", "gathered", "packed"):
        model = pruned({"name": "cropr", **options}, LLF, PER_BLOCK, execution, losses={"auxiliary": {}}).train()
        torch.manual_seed(5)
        outputs = model.encode(images(3))
        model.losses(outputs, targets=labels)["loss_auxiliary"].backward()
        found[execution] = [*(payload for _, _, payload in outputs.aux), *(p.grad for p in model.selectors.parameters())]
    assert len(found["masked"]) > 8
    for execution in ("gathered", "packed"):
        for a, b in zip(found["masked"], found[execution], strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def grads(module):
    return [p.grad for p in module.parameters()]


@pytest.mark.parametrize("options", [{}, {"heads": 3}, {"queries": 3}], ids=str)
def test_gradients_of_both_losses_are_apart(options):
    """Auxiliary losses teach every parameter of Cropr and none of the backbone, the main loss the other way round (section 3.1)."""
    model, x, labels = pruned({"name": "cropr", **options}, LLF, PER_BLOCK, losses={"auxiliary": {}}).train(), images(3), torch.arange(3)
    outputs = model.encode(x)
    F.cross_entropy(model.logits(outputs), labels).backward(retain_graph=True)
    assert all(g is None for g in grads(model.selectors)) and all(g is not None for g in grads(model.backbone))
    model.zero_grad()
    model.losses(outputs, targets=labels)["loss_auxiliary"].backward()
    assert all(g is None for g in grads(model.backbone)) and all(g.abs().sum() > 0 for g in grads(model.selectors))
    assert len([name for name, *_ in outputs.aux if name == "auxiliary"]) == len(model.selectors) == 4


def test_without_the_stop_gradient_auxiliary_losses_reach_the_backbone():
    model = pruned({"name": "cropr", "stop_grad": False}, LLF, PER_BLOCK, losses={"auxiliary": {}}).train()
    model.losses(model.encode(images(3)), targets=torch.arange(3))["loss_auxiliary"].backward()
    blocks = model.backbone.blocks
    assert all(g.abs().sum() > 0 for n in range(4) for g in grads(blocks[n])), "blocks 0 to 3 are before the last decision"
    assert all(g is None for n in (4, 5) for g in grads(blocks[n]))


def test_the_queries_learn_what_tells_classes_apart():
    """One token an image carries the class: the queries come to keep it."""
    torch.manual_seed(0)
    made = router(dim=12, classes=2).train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=2e-2)
    budget = Budget(1, 1, 9, 1 / 9)

    def batch(n=64):
        labels, place = torch.randint(0, 2, (n,)), torch.randint(0, 9, (n,))
        tokens = torch.randn(n, 9, 12)
        tokens[torch.arange(n), place, 0] += 4
        tokens[torch.arange(n), place, 1] += 4 * labels - 2
        state = TokenState.start(torch.zeros(n, 1, 12), tokens, (1, 9), torch.zeros(n, 3, 1, 9))
        return Observation(state, 1), labels, place

    def hits():
        seen, _, place = batch(256)
        with torch.no_grad():
            return float((made.score(seen, budget).keep[torch.arange(256), place]).float().mean())

    before = hits()
    for _ in range(80):
        seen, labels, _ = batch()
        optimizer.zero_grad()
        F.cross_entropy(made.score(seen, budget).notes["auxiliary"], labels).backward()
        optimizer.step()
    assert hits() > 0.9 > 0.3 > before


@pytest.mark.parametrize("options", [*VARIANTS, {"heads": 3, "select": "sampling", "salient": False, "queries": 4}], ids=str)
@torch.no_grad()
def test_deployed_routers_score_alike(options):
    made = router(**options).double().train()
    deployed = made.deploy().eval()
    seen, budget = observed(), Budget(1, 4, 9, 4 / 9)
    seen = Observation(seen.state.but(prefix=seen.state.prefix.double(), tokens=seen.tokens.double()), 1)
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
    [({"queries": 0}, "queries is 0; allowed: >= 1"), ({"heads": 5}, "heads is 5; allowed: 1, or what divides the 24"),
     ({"heads": 0}, "heads is 0"), ({"select": "top"}, "select is 'top'; allowed: topk, sampling")],
)  # fmt: skip
def test_wrong_options_are_refused(options, text):
    with pytest.raises(InvalidConfig, match=text):
        pruned({"name": "cropr", **options}, LLF, PER_BLOCK)


def test_what_is_exported_holds_nothing_that_only_training_needs(tmp_path):
    from tokenprune import export

    options = {"name": "cropr", "queries": 2, "heads": 3}
    model = pruned(options, LLF, {"name": PER_BLOCK, "remove": 9}, vit=tiny_vit(depth=4)).train()
    found = export.export(model, (32, 32), tmp_path / "m.pt2")
    assert max(found.values()) <= 1e-4
    held = torch.export.load(tmp_path / "m.pt2").state_dict
    names = {k.removeprefix("selectors.1.") for k in held if k.startswith("selectors.1.")}
    assert names == {"query", "norm.weight", "norm.bias", "key.weight"} and held["selectors.1.query"].shape == (1, 24)
