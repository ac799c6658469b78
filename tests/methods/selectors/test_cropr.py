"""Cropr by its equations: loops over images, queries and heads; who is drawn; which loss teaches whom."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.pairings import images, pruned
from tests.helpers.routers import LLF, PER_BLOCK, VARIANTS, observed, router
from tokenprune.engine.observation import Observation
from tokenprune.engine.schedule import Budget
from tokenprune.engine.state import TokenState


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
    other = Observation(seen.state.replace(prefix=-1e3 * made.query.unsqueeze(0).expand(2, 1, -1)), 1)  # of the lowest logit there is
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
    fused = seen.state.replace(index=seen.state.index.where(torch.arange(9) != 5, -1), all_placed=False, in_grid_order=False)
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
