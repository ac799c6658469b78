"""PatchMerger by its formula and its laws."""

import pytest
import torch

from tests.helpers.pairings import pruned
from tests.methods.selectors.test_mixing import selector_of
from tests.methods.selectors.test_sit import mixed


@pytest.mark.parametrize("scaled", [False, True])
def test_each_new_token_by_hand(scaled):
    selector, budget = selector_of({"name": "patch_merger", "scaled": scaled})
    tokens = torch.randn(2, 9, 6)
    decision, fresh = mixed(selector, budget, tokens)
    for b in range(2):
        x = tokens[b]
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x * selector.norm.weight + selector.norm.bias
        for k in range(4):
            weight = torch.exp(x @ selector.queries[k] / (6**0.5 if scaled else 1))
            torch.testing.assert_close(fresh[b, k], (weight / weight.sum()) @ x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(decision.mix.sum(-1), torch.ones(2, 4))


def test_lengths_of_tokens_do_not_matter():
    selector, budget = selector_of("patch_merger")
    tokens = torch.randn(1, 9, 6)
    longer = tokens * torch.linspace(1, 50, 9).view(1, 9, 1)
    torch.testing.assert_close(mixed(selector, budget, longer)[1], mixed(selector, budget, tokens)[1], atol=1e-3, rtol=1e-3)


def test_without_scaling_one_token_takes_nearly_all_at_first():
    """At C = 384 the greatest weight is .89 in the mean (measured on the released code); divided by sqrt(C) it is nearly uniform."""
    greatest = {}
    for scaled in (False, True):
        selector, budget = selector_of({"name": "patch_merger", "scaled": scaled}, count=49, live=196, dim=384)
        with torch.no_grad():
            selector.norm.weight.fill_(1)
            selector.norm.bias.zero_()
        tokens = torch.randn(8, 196, 384, generator=torch.Generator().manual_seed(1))
        greatest[scaled] = mixed(selector, budget, tokens)[0].mix.amax(-1).mean().item()
    assert greatest[False] == pytest.approx(0.89, abs=0.03) and greatest[True] < 0.1


def test_parameters_and_macs():
    selector = pruned("patch_merger", "remove").selectors["1"]
    assert sum(p.numel() for p in selector.parameters()) == 44 * 24 + 2 * 24 and selector.macs(64) == 2 * 64 * 44 * 24
