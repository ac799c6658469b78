"""The table of a model's tokens: the plan, the pass and the schedule say the same."""

import pytest
import torch

from tests.helpers.pairings import each_selector_once, images, label, pruned


@pytest.mark.parametrize(("selector", "treatment"), each_selector_once(), ids=label)
def test_the_planned_table_is_that_of_a_pass(selector, treatment):
    model = pruned(selector, treatment)
    with torch.no_grad():
        outputs = model.encode(images(2))
    planned, used = ([line.split()[:4] for line in text.splitlines()[1:]] for text in (model.describe(), outputs.describe()))
    assert len(planned) == len(used) == 1 + model.depth
    if not any(s.counts_vary for s in model.selectors.values()):
        assert planned == used
    for line, counts in zip(used[1:], outputs.usage, strict=True):
        assert [float(value) for value in line[1:]] == pytest.approx(
            [float(t.double().mean()) for t in (counts.attended, counts.rows, counts.fed)], abs=0.06
        )


def test_every_block_is_listed_and_the_prefix_is_counted_as_the_head_says():
    text = pruned("evit", "remove").describe().splitlines()
    assert text[0] == "64 positions; counts include 1 prefix token(s)"
    assert text[3] == "    1        65       65       46  45 of 64 patch tokens stay, decided before its MLP" and len(text) == 8
    assert text[4].split()[:4] == ["2", "46", "46", "33"]
