"""The Sinkhorn tokenizer: marginals, the released variant's scale, and limits that are known."""

import math

import pytest
import torch

from tests.helpers.pairings import pruned
from tests.methods.selectors.test_mixing import selector_of
from tests.methods.selectors.test_sit import mixed
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors import sinkhorn
from tokenprune.methods.selectors.sinkhorn import transport


def by_hand(scores, eps, iterations):
    """Return the plan by scaling rows and columns of exp(scores / eps) itself, with the released code's marginals."""
    K, N = scores.shape
    plan = (scores / eps).exp()
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdim=True) / (K + N)
        plan = plan / plan.sum(0, keepdim=True) / (K + N)
    return plan * (K + N)


def everyone(scores):
    return torch.ones(scores.shape[0], scores.shape[2], dtype=torch.bool)


@pytest.mark.parametrize(("eps", "iterations"), [(1.0, 3), (0.1, 3), (0.3, 1)])
def test_the_plan_is_that_of_plain_scaling_and_tokens_give_one_each(eps, iterations):
    scores = 2 * torch.rand(2, 5, 12, generator=torch.Generator().manual_seed(0)) - 1
    plan = transport(scores, everyone(scores), eps, iterations)
    for b in range(2):
        torch.testing.assert_close(plan[b], by_hand(scores[b].double(), eps, iterations).float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plan.sum(1), torch.ones(2, 12))
    assert plan.sum(2).mean().item() == pytest.approx(12 / 5)


def test_logarithms_and_factors_give_the_same_plan(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    scores = (2 * torch.rand(2, 5, 12, generator=generator) - 1).requires_grad_()
    live = torch.ones(2, 12, dtype=torch.bool)
    live[0, 4:7] = False
    weights, found = torch.rand(2, 5, 12, generator=generator), []
    for least in (0.05, 2.0):  # with factors, in logarithms
        monkeypatch.setattr(sinkhorn, "_MODERATE", least)
        with torch.autocast("cpu", torch.bfloat16):
            plan = sinkhorn.transport(scores, live, 0.05, 3)
        found.append((plan, *torch.autograd.grad((plan * weights).sum(), scores)))
    (factors, gradient), (logarithms, other) = found
    assert factors.dtype == torch.float32
    torch.testing.assert_close(factors, logarithms, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, other, atol=1e-4, rtol=1e-3)  # 1 / eps times as large as the plan, with its sums cancelling
    assert (found[0][0][0, :, 4:7] == 0).all()


def test_many_iterations_give_every_slot_the_same_mass():
    scores = 2 * torch.rand(1, 5, 20, generator=torch.Generator().manual_seed(0)) - 1
    few, many = (transport(scores, everyone(scores), 0.1, n).sum(2) for n in (1, 200))
    torch.testing.assert_close(many, torch.full((1, 5), 4.0), atol=1e-4, rtol=1e-4)
    assert (few - 4).abs().max() > 0.05


def test_196_tokens_to_49_slots_have_mass_four_each():
    """eps 1 and 3 iterations: the plan is nearly uniform."""
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.nn.functional.normalize(torch.randn(1, n, 32, generator=generator), dim=-1) for n in (196, 49))
    scores = v @ x.mT
    plan = transport(scores, everyone(scores), 1.0, 3)
    torch.testing.assert_close(plan.sum(1), torch.ones(1, 196))
    torch.testing.assert_close(plan.sum(2), torch.full((1, 49), 4.0), atol=5e-4, rtol=0)


def test_without_entropy_every_token_goes_to_its_slot():
    """Tokens at the ends of four axes, as many at each: the optimal plan is the assignment."""
    x = torch.eye(4).repeat(3, 1).unsqueeze(0)
    scores = torch.eye(4).unsqueeze(0) @ x.mT
    torch.testing.assert_close(transport(scores, everyone(scores), 0.02, 3), scores)
    soft = transport(scores, everyone(scores), 1.0, 3)
    assert soft.max() < 0.5  # as published, a third of the way from uniform at most


def test_the_released_scale_collapses_and_the_fixed_one_does_not():
    tokens = 5.6 * torch.nn.functional.normalize(torch.randn(1, 1, 32), dim=-1).expand(1, 196, 32)  # all alike
    norms = {}
    for variant in ("fixed", "released"):
        selector, budget = selector_of({"name": "sinkhorn", "variant": variant}, count=49, live=196, dim=32)
        norms[variant] = mixed(selector, budget, tokens)[1].norm(dim=-1)
    torch.testing.assert_close(norms["fixed"], torch.full((1, 49), 5.6), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norms["released"], torch.full((1, 49), 4.0), atol=1e-3, rtol=1e-3)  # mass N/K, whatever the tokens' length
    scattered = torch.randn(1, 196, 32, generator=torch.Generator().manual_seed(1))  # norms near 5.6
    decision, fresh = mixed(selector, budget, scattered)
    unit = torch.nn.functional.normalize(scattered, dim=-1)
    torch.testing.assert_close(fresh, decision.mix @ unit)
    assert 0.2 < fresh.norm(dim=-1).mean() < 0.5 and scattered.norm(dim=-1).mean() > 5


def test_new_tokens_by_hand():
    selector, budget = selector_of({"name": "sinkhorn", "eps": 0.2, "iterations": 2})
    tokens, slots = torch.randn(1, 9, 6), selector.slots.detach()
    before = slots.clone()
    _, fresh = mixed(selector, budget, tokens)
    cosines = torch.stack([torch.stack([v @ x / v.norm() / x.norm() for x in tokens[0]]) for v in slots])
    plan = by_hand(cosines.double(), 0.2, 2).float()
    for k in range(4):
        torch.testing.assert_close(fresh[0, k], plan[k] @ tokens[0] / plan[k].sum(), atol=1e-5, rtol=1e-4)
    assert torch.equal(selector.slots, before)  # the released code rewrites its parameter in every pass


def test_lengths_of_slots_do_not_matter():
    selector, budget = selector_of("sinkhorn")
    tokens = torch.randn(1, 9, 6)
    _, fresh = mixed(selector, budget, tokens)
    with torch.no_grad():
        selector.slots.mul_(torch.tensor([0.1, 1.0, 7.0, 300.0]).unsqueeze(1))
    torch.testing.assert_close(mixed(selector, budget, tokens)[1], fresh)


def test_macs_and_refusals():
    assert pruned("sinkhorn", "remove").selectors["1"].macs(64) == 2 * 64 * 44 * 24
    for options, text in (
        ({"eps": 0}, "eps is 0; allowed: > 0"),
        ({"eps": math.nan}, "eps is nan; allowed: > 0"),
        ({"iterations": 0}, "iterations is 0; allowed: a whole number >= 1"),
        ({"variant": "x"}, "variant is 'x'; allowed: fixed, released"),
    ):
        with pytest.raises(InvalidConfig, match=text):
            pruned({"name": "sinkhorn", **options}, "remove")
