"""SiT's token slimming by its formula and its laws."""

import torch
from torch.nn import functional as F

from tests.helpers.pairings import pruned
from tests.methods.selectors.test_mixing import observed, selector_of
from tokenprune.engine.observation import Observation
from tokenprune.methods.treatments.plain import Remove


def mixed(selector, budget, tokens):
    state = observed(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
    decision = selector.score(Observation(state, 2), budget)
    return decision, Remove().apply(state, decision).tokens[:, tokens.shape[1] :]


def test_each_new_token_by_hand():
    selector, budget = selector_of("sit")
    tokens = torch.randn(2, 9, 6)
    first, second = selector.weigh[1], selector.weigh[3]
    _, fresh = mixed(selector, budget, tokens)
    for b in range(2):
        x = tokens[b]
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x * selector.weigh[0].weight + selector.weigh[0].bias
        logits = F.gelu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
        assert first.weight.shape == (3, 6) and second.weight.shape == (4, 3)
        for k in range(4):
            weight = torch.exp(selector.scale * logits[:, k])
            torch.testing.assert_close(fresh[b, k], (weight / weight.sum()) @ tokens[b], atol=1e-5, rtol=1e-4)


def test_new_tokens_stay_between_the_least_and_the_greatest():
    selector, budget = selector_of("sit")
    tokens = torch.randn(3, 9, 6)
    decision, fresh = mixed(selector, budget, tokens)
    torch.testing.assert_close(decision.mix.sum(-1), torch.ones(3, 4))
    assert (fresh >= tokens.amin(1, keepdim=True) - 1e-5).all() and (fresh <= tokens.amax(1, keepdim=True) + 1e-5).all()


def test_without_scale_every_new_token_is_the_mean():
    selector, budget = selector_of("sit")
    with torch.no_grad():
        selector.scale.zero_()
    tokens = torch.randn(2, 9, 6)
    torch.testing.assert_close(mixed(selector, budget, tokens)[1], tokens.mean(1, keepdim=True).expand(-1, 4, -1))


def test_scale_begins_at_one_and_macs():
    selector = pruned("sit", "remove").selectors["2"]
    assert selector.scale == 1 and selector.macs(44) == 44 * (24 * 12 + 12 * 31 + 31 * 24)
