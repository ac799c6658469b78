"""Ten reduction methods against what their authors' code computed, and in all executions.

tests/golden/README.md says what methods.json holds. The full set is asked with `-m slow`.
"""

import pytest
import timm
import torch

from tests.helpers.parity import picture
from tests.helpers.reduction import (
    EVERY,
    computed,
    executions,
    expected_counts,
    filled_vit,
    full,
    model_of,
    pictures,
    ranks,
    real_vit,
    runs,
    same_groups,
)
from tokenprune.measure.macs import encoder_macs, planned_macs

RUNS, FEW = sorted(runs()), 2
PAIRS = [(name, execution) for name in RUNS for execution in executions(runs()[name])]
LATE = [name for name in RUNS if runs()[name]["selector"].get("mode") == "after"]  # blocks are named one later, the last merge is left out


def counts_agree(name: str, found: list[list[int]]) -> bool:
    wanted = expected_counts(runs()[name], len(found))
    return [row[1:] for row in found] == [row[:-1] for row in wanted] if name in LATE else found == wanted


@pytest.mark.parametrize("name", RUNS)
def test_logits_and_counts_are_the_authors(name):
    entry, images = runs()[name], pictures()
    solid = [i for i in range(len(entry["logits"])) if i not in entry["fragile"]][:FEW]
    logits, counts = computed(model_of(entry, real_vit()), images[solid])
    wanted = torch.tensor([entry["logits"][i] for i in solid])
    torch.testing.assert_close(logits[:, ::EVERY], wanted, atol=1e-4, rtol=0)
    rows = expected_counts(entry, 16)
    assert counts_agree(name, counts) if len(entry["counts"]) == 1 else counts == [rows[i] for i in solid]


@pytest.mark.parametrize(("name", "execution"), PAIRS)
def test_every_execution_gives_the_same_numbers(name, execution):
    """Anywhere, with weights that are filled by name; an image alone gives what it gives beside another."""
    entry, images = runs()[name], picture().double()
    model = model_of(entry, filled_vit(), execution)
    logits, counts = computed(model, images)
    torch.testing.assert_close(logits, torch.tensor(entry["own"]["logits"], dtype=torch.float64), atol=1e-5, rtol=0)
    assert counts == (entry["own"]["counts"] if len(entry["own"]["counts"]) > 1 else entry["own"]["counts"] * 2)
    torch.testing.assert_close(computed(model, images[1:])[0], logits[1:], atol=1e-9, rtol=0)


def by_formula(counts: list[int], C: int, site: str) -> float:
    """Return the multiplications of blocks in C channels: T tokens enter, T' of them are fed."""
    entered = [197, *counts[:-1]]
    if site == "before":
        entered = counts
    if site == "ahead":  # q, k and the map of T tokens; values, what they give and the rest of T'
        return sum(2 * T * C * C + T * T * C + 2 * t * C * C + t * t * C + 8 * t * C * C for T, t in zip(entered, counts, strict=True))
    return sum(4 * T * C * C + 2 * T * T * C + 8 * t * C * C for T, t in zip(entered, counts, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_multiplications_are_those_of_the_counts(name):
    entry = runs()[name]
    model = model_of(entry, filled_vit())
    with torch.no_grad():
        outputs = model.encode(picture()[:1].double())
    found, site = encoder_macs(model, outputs), next(iter(model.selectors.values())).site
    counts = [int(used.fed[0]) for used in outputs.usage]
    assert found.total - found.selector - found.embedding == pytest.approx(by_formula(counts, 48, site), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in RUNS if len(runs()[name]["counts"]) == 1])
def test_planned_gmac_is_the_reference_s(name):
    """Blocks, embedding and head of the ViT-Tiny, from the real counts, without the selector."""
    with torch.device("meta"):
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=200).eval()
        model = model_of(runs()[name], vit)
    plan, decided = planned_macs(model, 196, head=True), model.selectors.values()
    peeks = sum(2 * T * 192**2 + T * T * 192 for s in decided if s.peeks for T in [s.context.budget.live + 1])  # which our selector counts
    assert (plan.total - plan.selector + peeks) / 1e9 == pytest.approx(runs()[name]["gmac"], abs=6e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "execution"), PAIRS)
def test_the_full_set(name, execution):
    entry, golden = runs()[name], full(name)
    logits, counts = computed(model_of(entry, real_vit(), execution), pictures())
    solid = [i for i in range(16) if i not in entry["fragile"]]
    torch.testing.assert_close(logits[solid], golden["logits"][solid], atol=1e-4, rtol=0)
    assert counts_agree(name, counts) and counts_agree(name, golden["counts"].tolist()) or name in LATE


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_full_set_in_double(name):
    """Here no choice hangs on rounding: every picture counts."""
    golden = full(name)
    logits, counts = computed(model_of(runs()[name], real_vit(torch.float64)), pictures().double())
    torch.testing.assert_close(logits.float(), golden.get("logits_float64", golden["logits"]).float(), atol=1e-4, rtol=0)
    assert counts_agree(name, counts)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name not in LATE])
def test_positions_are_held_by_the_authors_slots(name):
    """Slots are compared one by one where their order is part of the method, else as groups."""
    entry, wanted = runs()[name], full(name)["owner"].long()[..., 1:]
    model, method = model_of(entry, real_vit()), entry["selector"]["name"]
    with torch.no_grad():
        state = model.start(pictures()[:4])
        for block in range(12):
            state, _ = model.run(state, block, block + 1)
            found = ranks(state)
            for image in (i for i in range(4) if i not in entry["fragile"]):
                there = wanted[image, block]
                if method == "tofu":  # whose golden says where a dropped token would have gone
                    there = there.where(found[image] != 255, 255)
                ordered = method in ("ppt", "tofu", "mctf", "algm")
                assert torch.equal(found[image], there) if ordered else same_groups(found[image], there)
