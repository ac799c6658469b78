"""DiffRate's learned counts: the proxy by loops, the budget by hand, and a search whose lists are those of the plain method."""

import pytest
import torch

from tests.helpers.pairings import images, pruned, tiny_vit
from tokenprune.errors import InvalidConfig
from tokenprune.methods.losses.compute import ComputeBudget, gmac, least
from tokenprune.methods.selectors.shared.learned_counts import LearnedCount, LearnedCounts, lists_of
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.validation import validate

LISTS = {"name": "counts", "prune": [65, 64, 63, 62, 61, 60], "merge": None, "positions": 64}
LEARNED = {"name": "diffrate", "counts": "learned", "granularity": 4}
MERGE = {"name": "merge", "memory": "forget"}


def searched(**options):
    losses = {"compute": {"target": "40%", "weight": 4e6, **options}}
    return pruned(LEARNED, MERGE, LISTS, losses=losses, vit=tiny_vit())


def by_loops(count):
    """Return the expectation and, rank by rank, the probability to stay, with the released loops over candidates."""
    chances = count.logits.softmax(0).tolist()
    numbers = list(range(10, 0, -3))
    stays = [sum(p for n, p in zip(numbers, chances, strict=True) if rank < n) for rank in range(10)]
    return sum(n * p for n, p in zip(numbers, chances, strict=True)), stays


def test_the_proxy_is_an_expectation_rounded_up_that_keeps_its_gradient():
    count = LearnedCount(10, 3)
    count.logits.data = torch.tensor([0.3, -1.0, 0.8, 0.1])
    expected, stays = by_loops(count)
    assert count() == -(-expected // 1) and count().item() != pytest.approx(expected)
    torch.testing.assert_close(count.stays(10), torch.tensor(stays))
    count().backward()
    chances = count.logits.detach().softmax(0)
    torch.testing.assert_close(count.logits.grad, chances * (count.candidates - expected))


def test_gates_are_hard_and_only_numbers_that_bind_learn():
    pair = LearnedCounts(10, 1)
    pair.merged.logits.data[9] = 2.0  # fewer than what pruning leaves, which is 6 of 10
    left, keep = pair.numbers(10)
    gate = pair.gates(10, 10)
    assert left == 6 and keep < left and gate.tolist() == pytest.approx([1.0] * keep + [0.0] * (10 - keep))
    gate[:left].sum().backward()
    assert pair.pruned.logits.grad.abs().sum() > 0 and pair.merged.logits.grad.abs().sum() > 0
    again = LearnedCounts(10, 1)
    assert not again.gates(10, 5).requires_grad  # 5 are there, and either number is 6


def test_the_budget_is_the_papers_formula_and_follows_both_counts():
    pruned_to, merged_to = (torch.tensor(n, requires_grad=True) for n in (30.0, 20.0))
    C, spent = 8, gmac(8, 2, 65, 4, 5, {0: (pruned_to, merged_to)})
    by_hand = 65 * C * 48 + C * 5 + 4 * 65 * C**2 + 2 * 65**2 * C + 8 * 20 * C**2 + 4 * 20 * C**2 + 2 * 20**2 * C + 8 * 20 * C**2
    assert spent.item() * 1e9 == pytest.approx(by_hand)
    spent.backward()
    slope = 8 * C**2 + 4 * C**2 + 4 * 20 * C + 8 * C**2
    assert [n.grad.item() * 1e9 for n in (pruned_to, merged_to)] == pytest.approx([slope, slope])
    assert least(torch.tensor(7.0), pruned_to, merged_to) == 7
    assert ComputeBudget("25%").asked(torch.tensor(4.0)) == 1 and ComputeBudget(2.9).asked(torch.tensor(4.0)) == 2.9


def test_a_search_meets_its_budget_and_gives_lists_for_the_plain_method():
    torch.manual_seed(0)
    model, x = searched().train(), images(3)
    found: list[float] = []
    optimizer = torch.optim.AdamW(model.selectors.parameters(), lr=0.05, weight_decay=0.0)
    for step in range(60):
        outputs = model.encode(x)
        losses = model.losses(outputs)
        loss = torch.nn.functional.cross_entropy(model.logits(outputs), torch.arange(3)) + losses["loss_compute"]
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
            assert all(s.learned.pruned.logits.grad.abs().sum() > 0 for s in model.selectors.values())
        optimizer.step()
        found.append(float(losses["loss_compute"].detach()))
    assert found[-1] < 0.02 * found[0]
    lists = lists_of(model)
    assert lists["prune"][0] == lists["merge"][0] == 65 and max(lists["prune"][1:]) < 65
    plain = pruned("diffrate", MERGE, {"name": "counts", "positions": 64, **lists}, vit=model.backbone).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), plain(x))
        masked = pruned(LEARNED, MERGE, LISTS, execution="masked", vit=model.backbone).eval()
        masked.load_state_dict(model.state_dict())
        torch.testing.assert_close(masked(x), plain(x), atol=1e-5, rtol=1e-5)
    notes = sorted(s.caveat for s in model.selectors.values())
    assert notes[0] == f"block 01: learned to prune to {lists['prune'][1]} tokens and to merge to {lists['merge'][1]}"


def test_the_task_alone_reaches_the_counts_and_the_encoder_learns_as_well():
    model, x = searched().train(), images(3)
    outputs = model.encode(x)
    model.logits(outputs).square().mean().backward()
    assert model.selectors["1"].learned.pruned.logits.grad.abs().sum() > 0
    assert model.backbone.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert outputs.state.mass.where(outputs.state.live, 1.0).min() >= 1


def test_what_is_refused():
    with pytest.raises(InvalidConfig, match="counts is 'guessed'; allowed: given, learned"):
        pruned({"name": "diffrate", "counts": "guessed"}, MERGE, LISTS)
    with pytest.raises(InvalidConfig, match="granularity is 0; allowed: a whole number >= 1"):
        pruned({**LEARNED, "granularity": 0}, MERGE, LISTS)
    for target in ("much", -1, "0%"):
        with pytest.raises(InvalidConfig, match="losses.compute.target is .*allowed: GMAC an image above 0"):
            ComputeBudget(target)
    with pytest.raises(InvalidConfig, match="weight is -1"):
        ComputeBudget(weight=-1)
    assert ComputeBudget().loss(type("Facts", (), {"outputs": type("Outputs", (), {"aux": ()})})) is None


def test_the_recipe_is_the_released_command():
    run = resolve(compose(["method=diffrate", "scale=paper", "task=classification", "+recipe=diffrate_rates", "dense.init=scratch"]))
    assert "GMAC" in validate(run, files=False)
    assert (run["selector"]["counts"], run["selector"]["granularity"], run["treatment"]["memory"]) == ("learned", 4, "forget")
    training = run["training"]
    assert (training["iterations"], training["batch_size"], training["lr"], training["min_lr"]) == (3 * 1251, 1024, 0.01, 0.001)
    assert (training["backbone_lr_scale"], training["weight_decay"], run["losses"]) == (0, 0, {"compute": {"target": "63%", "weight": 5.0}})
