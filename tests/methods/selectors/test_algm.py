"""ALGM against loops over windows and pairs, for each image by itself and, as released, for a batch."""

import pytest
import torch

from tests.helpers.pairings import images, pruned, tiny_vit
from tests.methods.selectors.test_merging_formulas import agrees, cosine, decided
from tokenprune.engine.observation import Observation
from tokenprune.engine.state import TokenState
from tokenprune.errors import InvalidConfig
from tokenprune.methods.selectors.algm import LocalThenGlobalMerging
from tokenprune.registry import build

FIRST = {"name": "explicit", "keep": {2: 1.0}}
BOTH = {"name": "explicit", "keep": {1: 1.0, 3: 1.0}}


def windows(x):
    """Return {slots of a window: mean cosine of its ordered pairs} of tokens (64,C) on a grid of 8 x 8."""
    near, found = cosine(x), {}
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            slots = [row * 8 + column, row * 8 + column + 1, (row + 1) * 8 + column, (row + 1) * 8 + column + 1]
            found[tuple(slots)] = sum(float(near[i, j]) for i in slots for j in slots if i != j) / 12
    return found


def test_windows_of_similar_tokens_merge():
    seen, _, decision, after = decided({"name": "algm", "threshold": 0.2}, FIRST)
    counts = set()
    for image in range(3):
        found = windows(seen.tokens[image])
        falling = sorted((w for w in found if found[w] >= 0.2), key=lambda w: -found[w])
        agrees(seen, decision, after, image, {i: w[0] for w in falling for i in w[1:]})
        merged = {i for w in falling for i in w}
        order = [w[0] for w in falling] + [i for i in range(64) if i not in merged]
        assert decision.order[image, : len(order)].tolist() == order
        counts.add(len(order))
    assert len(counts) > 1


def edges(x, ranked):
    """Return {source: (target, cosine)} of the later step, of tokens (64,C) in an order behind a class token."""
    near, b = cosine(x), ranked[0::2]
    best = {i: max(b, key=lambda j, i=i: float(near[i, j])) for i in ranked[1::2]}
    return {i: (j, float(near[i, j])) for i, j in best.items()}


def least(found, layer):
    """Return the cosine from which edges merge."""
    values = torch.tensor([value for _, value in found.values()])
    return float(values.mean() + values.std() / layer)


def global_step(x, ranked, layer):
    """Return {source: target} of an image by itself."""
    found = edges(x, ranked)
    return {i: j for i, (j, value) in found.items() if value >= least(found, layer)}


@pytest.mark.parametrize("execution", ["masked", "packed"])
def test_pairs_merge_above_the_threshold_of_their_own_image(execution):
    model = pruned({"name": "algm", "threshold": 0.2}, "merge", BOTH, execution)
    with torch.no_grad():
        state, _ = model.run(model.start(images(3)), 0, 3)
        seen = Observation(state, 3)
        ranked = seen.ranked()
        decision = model.selectors["3"].score(seen, model.budgets(64)[3])
    for image in range(3):
        slots = ranked[image][: int(state.live[image].sum())].tolist()
        moves = global_step(state.tokens[image], slots, 4)
        assert moves and {s for s in slots if not decision.keep[image, s]} == set(moves)
        assert all(decision.target[image, i] == j for i, j in moves.items())
        order = [s for s in slots[1::2] if s not in moves] + slots[0::2]
        assert decision.order[image][: len(order)].tolist() == order


def test_a_released_batch_merges_as_many_as_the_image_that_wants_fewest():
    own = decided({"name": "algm", "threshold": 0.2}, FIRST)[2]
    agreed = decided({"name": "algm", "threshold": 0.2, "variant": "released"}, FIRST)
    fewest = int((~own.keep).sum(1).min())
    assert (~agreed[2].keep).sum(1).tolist() == [fewest] * 3
    for image in range(3):
        found = windows(agreed[0].tokens[image])
        falling = sorted(found, key=lambda w: -found[w])[: fewest // 3]
        agrees(*agreed[:1], agreed[2], agreed[3], image, {i: w[0] for w in falling for i in w[1:]})


def test_a_released_batch_has_one_threshold_and_one_count_for_pairs():
    model = pruned({"name": "algm", "threshold": 0.2, "variant": "released"}, "merge", BOTH)
    with torch.no_grad():
        state, _ = model.run(model.start(images(3)), 0, 3)
        seen = Observation(state, 3)
        decision = model.selectors["3"].score(seen, model.budgets(64)[3])
    live = int(state.live[0].sum())
    found = [edges(state.tokens[image], seen.ranked()[image][:live].tolist()) for image in range(3)]
    level = sum(least(image, 4) for image in found) / 3
    fewest = min(sum(value >= level for _, value in image.values()) for image in found)
    for image in range(3):
        best = sorted(found[image], key=lambda i, image=image: -found[image][i][1])[:fewest]
        assert fewest and {s for s in range(64) if state.live[image, s] and not decision.keep[image, s]} == set(best)


def test_odd_grids_keep_their_last_row_and_column():
    context = pruned("algm", "merge", BOTH, vit=tiny_vit()).selectors["1"].context
    selector = build("selector", {"name": "algm", "threshold": -1.0}, context=context)
    tokens = torch.randn(2, 15, 24)
    decision = selector.windows(Observation(TokenState.start(tokens[:, :1], tokens, (3, 5)), 1))
    assert decision.keep[0].tolist() == [True, False, True, False, True] + [False] * 4 + [True] * 6


def test_thresholds_are_cosines():
    with pytest.raises(InvalidConfig, match="threshold is 1.5"):
        pruned({"name": "algm", "threshold": 1.5}, "merge", FIRST)
    assert "no keep rate" in pruned("algm", "merge", FIRST).selectors["2"].caveat and LocalThenGlobalMerging.budget == "dynamic"
