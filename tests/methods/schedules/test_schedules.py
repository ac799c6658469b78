"""Exact counts: the references' printed sequences, and the laws every schedule obeys."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.engine.legality import resolve
from tokenprune.engine.schedule import Layout, Schedule, exact
from tokenprune.errors import InvalidSchedule, TokenPruneError
from tokenprune.methods.schedules.per_block import PerBlock
from tokenprune.registry import build, get


def keeps(spec, **layout):
    return [b.keep for b in build("schedule", spec).budgets(Layout(**{"depth": 12, "positions": 196, "prefix": 1, **layout}))]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.9, [176, 158, 142]), (0.8, [156, 125, 100]), (0.7, [137, 96, 67]), (0.6, [117, 70, 42]), (0.5, [98, 49, 24])],
)
def test_dynamicvit_counts(rate, expected):
    assert keeps({"name": "stages", "keep_rate": rate}) == expected


@pytest.mark.parametrize(
    ("rate", "fused", "plain"),
    [(0.9, [177, 161, 146], [177, 160, 144]), (0.7, [138, 98, 70], [138, 97, 68]), (0.5, [98, 50, 26], [98, 49, 25])],
)
def test_evit_counts(rate, fused, plain):
    spec = {"name": "stages", "keep_rate": rate, "of": "current", "rounding": "ceil"}
    assert keeps(spec, extra=1) == fused
    assert keeps(spec) == plain


def test_dense_task_counts_are_exact_and_reference_rounding_reproduces_the_float_slip():
    exact_counts = keeps({"name": "stages"}, positions=4200)
    released = keeps({"name": "stages", "rounding": "reference"}, positions=4200)
    assert exact_counts == [2940, 2058, 1440] and released == [2940, 2057, 1440]
    evit = {"name": "stages", "of": "current", "rounding": "ceil"}
    assert keeps(evit, positions=4200, extra=1) == [2940, 2059, 1442]


def test_evits_curriculum_holds_back_and_ends_at_the_rate_of_the_test():
    schedule = build("schedule", {"name": "stages", "of": "current", "rounding": "ceil", "shrink_start": 10 / 300, "shrink_end": 110 / 300})
    counts = [[b.keep for b in schedule.at(epoch / 300).budgets(Layout(12, 196, 1))] for epoch in (5, 35, 60, 85, 110, 300)]
    assert counts[0] == [] and counts[-2] == counts[-1] == keeps({"name": "stages", "of": "current", "rounding": "ceil"}) == [138, 97, 68]
    assert counts[1] == [188, 180, 173] and counts[2] == [167, 142, 121]  # .9561 and .85 of what is there, rounded up
    plain = build("schedule", {"name": "stages"})
    assert plain.at(0.0) is plain  # no curriculum: the rate of the test at once


def test_evo_vit_is_layer_wise_first_and_stage_wise_then():
    schedule = build("schedule", {"name": "constant", "rate": 0.5, "stage_wise_from": 2 / 3})
    blocks = {epoch: [b.block for b in schedule.at(epoch / 300).budgets(Layout(12, 196, 1))] for epoch in (0, 199, 200, 300)}
    assert blocks[0] == blocks[199] == list(range(4, 12)) and blocks[200] == blocks[300] == [4, 8]
    layer_wise = build("schedule", {"name": "constant", "rate": 0.5})
    assert layer_wise.at(0.0) is layer_wise.at(1.0) is layer_wise and len(layer_wise.budgets(Layout(12, 196, 1))) == 8


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"name": "stages", "shrink_start": 0.5, "shrink_end": 0.4}, "after shrink_end"),
        ({"name": "stages", "shrink_end": 30}, "shrink_end is 30; allowed is a share"),
        ({"name": "constant", "stage_wise_from": 200}, "stage_wise_from is 200; allowed is a share"),
        ({"name": "constant", "span": 0}, "span is 0; allowed: a whole number"),
    ],
)
def test_epochs_are_given_as_shares(spec, text):
    with pytest.raises(InvalidSchedule, match=text):
        build("schedule", spec)


def test_constant_rate_published_and_matched():
    assert keeps({"name": "constant", "rate": 0.5}, all_candidates=True) == [98] * 8
    matched = build("schedule", {"name": "constant", "keep_rate": 0.7}).rates(Layout(12, 196))
    rate = Fraction(7, 10)
    assert matched[0][1] == (3 * (rate + rate**2 + rate**3) - 1) / 8


def test_svit_targets():
    budgets = build("schedule", {"name": "every_block", "keep_rate": 0.7}).budgets(Layout(12, 4200))
    assert [b.block for b in budgets] == list(range(3, 12))
    assert [float(b.rate) for b in budgets] == pytest.approx([0.7] * 3 + [0.49] * 3 + [0.343] * 3)


@pytest.mark.parametrize(
    ("remove", "positions", "depth", "revive", "expected"),
    [
        (8, 196, 24, True, [197, *range(188, 19, -8), 197]),
        (8, 196, 24, False, [197, *range(188, 11, -8)]),
        (16, 196, 12, True, [197, *range(180, 35, -16), 197]),
        (8, 256, 32, True, [257, *range(248, 15, -8), 257]),
        (40, 1024, 24, True, [1025, *range(984, 143, -40), 1025]),
    ],
)
def test_cropr_sequence_lengths(remove, positions, depth, revive, expected):
    budgets = build("schedule", {"name": "per_block", "remove": remove}).budgets(Layout(depth, positions, 1, revive=revive))
    lengths, now = [], positions
    by_block = {b.block: b.keep for b in budgets}
    for block in range(depth):
        now = positions if revive and block == depth - 1 else by_block.get(block, now)
        lengths.append(now + 1)
    assert lengths == expected


def test_tome_lengths_with_its_cap():
    spec = {"name": "per_block", "remove": 8, "start": 0, "align": False}
    after = [k + 1 for k in keeps(spec, depth=24, cap=lambda live, prefix: live // 2)]
    assert after[:2] == [189, 181] and after[-3:] == [21, 13, 7]


@given(st.integers(1, 99), st.integers(2, 5000), st.sampled_from(["floor", "ceil", "round"]), st.sampled_from(["original", "current"]))
def test_counts_fall_and_never_reach_zero(percent, positions, rounding, of):
    spec = {"name": "stages", "keep_rate": percent / 100, "rounding": rounding, "of": of}
    try:
        counts = keeps(spec, positions=positions)
    except InvalidSchedule as error:
        assert "would stay" in str(error)
        return
    assert all(1 <= k <= positions for k in counts)
    assert counts == sorted(counts, reverse=True)


@given(st.integers(1, 100))
def test_exact_rates_are_what_was_written(percent):
    assert exact(percent / 100, "keep_rate") == Fraction(percent, 100)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"name": "stages", "keep_rate": 0}, "0 < keep_rate <= 1"),
        ({"name": "stages", "keep_rate": 1.5}, "0 < keep_rate <= 1"),
        ({"name": "stages", "keep_rate": "abc"}, "a number"),
        ({"name": "stages", "keep_rate": float("nan")}, "0 < keep_rate <= 1"),
        ({"name": "stages", "keep_rate": True}, "a number"),
        ({"name": "stages", "blocks": [3, 6, 12]}, "12 blocks, 0 to 11"),
        ({"name": "stages", "blocks": [6, 3]}, "ascending"),
        ({"name": "stages", "of": "now"}, "original, current"),
        ({"name": "stages", "rounding": "up"}, "floor, ceil"),
        ({"name": "per_block", "remove": 30}, "would stay"),
        ({"name": "per_block", "remove": -1}, "whole number"),
        ({"name": "explicit", "keep": {3: 500}}, "1 to 196"),
        ({"name": "explicit", "keep": {3: 1.5}}, "0 <"),
    ],
)
def test_errors_say_what_and_how(spec, text):
    with pytest.raises(InvalidSchedule, match=text.replace("(", r"\(")):
        keeps(spec)


def test_last_layer_fusion_needs_room():
    with pytest.raises(InvalidSchedule, match="<= 10"):
        keeps({"name": "stages", "blocks": [3, 6, 11]}, revive=True)


def test_describe_prints_counts():
    text = build("schedule", "stages").describe(Layout(12, 196, 1))
    assert "keep   137 of   196" in text and "34.2%" in text


def test_the_curriculum_over_r_is_the_released_one():
    """The sequence of R of 64 epochs that the reference lists (Cropr, segmentation)."""
    listed = "0 1 2 3 5 6 7 9 10 11 12 14 15 16 18 19 20 21 23 24 25 27 28 29 30 32 33 34 36 37 38 40"
    schedule = PerBlock(remove=40, ramp=64)
    at = [schedule.at(epoch / 64).remove for epoch in range(64)]
    assert at == [int(n) for n in listed.split()] + [40] * 32
    assert [schedule.at((epoch + 0.99) / 64).remove for epoch in range(64)] == at and schedule.at(1.0) is schedule
    assert schedule.at(0.0).budgets(Layout(24, 1024, 1)) == () and PerBlock(remove=7, ramp=3).at(0.4).remove == 7


def test_three_stages_of_fifty_after_blocks_6_12_18():
    schedule, layout = PerBlock(remove=50, start=6, step=6), Layout(24, 196, 1)
    assert [(b.block, b.keep) for b in schedule.budgets(layout)] == [(6, 145), (12, 95), (18, 45)]
    assert schedule.budgets(replace(layout, revive=True)) == schedule.budgets(layout)


@pytest.mark.parametrize("wrong", [{"step": 0}, {"ramp": -1}, {"remove": 1.5}])
def test_per_block_says_what_is_wrong(wrong):
    with pytest.raises(InvalidSchedule, match="allowed: a whole number"):
        PerBlock(**wrong)


class Broken(Schedule):
    """Has a mistake in its rates."""

    name = "broken"

    def rates(self, layout):
        return [(block, Fraction(1, 2)) for block in range(0, layout.depth, 0)]


def test_an_error_in_the_code_of_a_schedule_is_one_line_with_its_place():
    plan = Broken(), Layout(12, 64)
    with pytest.raises(TokenPruneError) as caught:
        resolve(get("selector", "evit"), build("treatment", "remove"), *plan)
    what = r"ValueError: range\(\) arg 3 must not be zero \(schedules/test_schedules.py:\d+\)"
    assert re.fullmatch(
        rf"schedule 'broken' failed for 12 blocks and 64 positions: {what}; mend its `rates` or `budgets`", str(caught.value)
    )
