"""A row's encoder at a paper's size: it keeps what the row keeps, and says why where it is not timed."""

import pytest
import torch

from tokenprune.engine.counted import Counted
from tokenprune.errors import TokenPruneError
from tokenprune.measure.macs import encoder_cost
from tokenprune.runs.config import compose, resolve
from tokenprune.tasks.encoder import build_pruned
from tokenprune.tasks.paper_size import PaperSize, shares_of, speed_at_size

SIZE = PaperSize(short_side=100, long_side=150, embed_dim=24, num_heads=3, rounds=1)  # 7 x 10 patches
CPU = torch.device("cpu")


def a_row(*choices):
    """A row's configuration, its encoder with random weights, and what it keeps of 64 positions."""
    run = resolve(compose(["scale=smoke", *choices]))
    torch.manual_seed(0)
    pruned = build_pruned(run).eval()
    with torch.no_grad():
        cost = encoder_cost(pruned, torch.randn(4, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return run, pruned, cost


@pytest.mark.parametrize(
    "choices",
    [
        ("method=evit",),
        ("method=evit", "treatment=preserve"),
        ("method=dynamicvit", "treatment=preserve"),
        ("method=ats", "treatment=preserve"),
        ("method=evo_vit",),
        ("method=svit",),
        ("method=random", "treatment=last_layer_fusion"),
        ("method=tome",),
    ],
    ids=str,
)
def test_it_keeps_the_rows_shares(choices):
    run, pruned, cost = a_row(*choices)
    found = speed_at_size(run, pruned, 64, cost["kept_per_block"], SIZE, CPU)
    assert found["kept_share_paper_size"] == pytest.approx(cost["kept_share"], abs=1.5 / 70), choices
    assert found["speedup_paper_size"] > 0 and found["seconds_paper_size"] > 0
    assert "random weights of width 24, 160 x 112 px, 70 tokens" in found["paper_size_note"]


def test_counts_of_the_row_and_not_of_random_weights_are_kept():
    """SViT's threshold would keep about half of the tokens of random weights."""
    run, pruned, _ = a_row("method=svit")
    share = 0.2
    found = speed_at_size(run, pruned, 64, [1.0] * 3 + [share] * 9, SIZE, CPU)
    assert found["kept_share_paper_size"] == pytest.approx((3 + 9 * share) / 12, abs=1e-6)


def test_a_decision_inside_a_block_shows_in_the_attention_of_the_next():
    _, before, _ = a_row("method=random")
    _, inside, _ = a_row("method=evit")
    kept = [1, 1, 1, 0.7, 0.69, 0.69, 0.5, 0.49, 0.49, 0.4, 0.34, 0.34]
    assert shares_of(before, 64, kept) == {3: 0.7, 6: 0.5, 9: 0.4}
    assert shares_of(inside, 64, kept) == {3: 0.69, 6: 0.49, 9: 0.34}


def test_a_dense_row_is_its_own_measure():
    run, pruned, cost = a_row("method=dense")
    found = speed_at_size(run, pruned, 64, cost["kept_per_block"], SIZE, CPU)
    assert found["kept_share_paper_size"] == 1.0 and found["speedup_paper_size"] > 0


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        (("method=evit", "execution=masked"), "masked execution is not timed"),
        (("method=adavit", "task=classification"), "not timed: what the selector switches off is computed all the same"),
    ],
    ids=str,
)
def test_what_is_not_timed_says_why(choices, reason):
    run, pruned, cost = a_row(*choices)
    found = speed_at_size(run, pruned, 64, cost["kept_per_block"], SIZE, CPU)
    assert found["speedup_paper_size"] is None and found["paper_size_note"].startswith(reason)


def test_only_selectors_that_keep_or_drop_are_counted():
    _, pruned, _ = a_row("method=tome")
    with pytest.raises(TokenPruneError, match="selector 'tome' cannot keep given counts"):
        Counted(next(iter(pruned.selectors.values())))
