"""Points of elastic training: what is legal, and draws that depend on seed and step alone."""

import subprocess
import sys
from collections import Counter

import pytest

from tokenprune.errors import InvalidConfig
from tokenprune.training.points import ElasticConfig, drawn, pairs
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils.settings import read_settings

CFG = ElasticConfig(keep_rates=(0.4, 0.9), lowest=0.25, schedules={"stages": {}, "every_block": {}}, draws=2)
SHAPE = {"depth": 12, "positions": 256, "prefix": 1}


def test_illegal_pairs_are_left_out_and_all_others_are_there():
    """topk decides inside a block, so nothing can come back under it."""
    legal = pairs(CFG, **SHAPE)
    wanted = {(s, t, p) for s in CFG.selectors for t in CFG.treatments for p in CFG.schedules} - {
        ("topk", "reactivate", "stages"),
        ("topk", "reactivate", "every_block"),
    }
    assert set(legal) == wanted and len(legal) == len(wanted)


@pytest.mark.system
def test_a_draw_depends_on_seed_and_step_alone():
    legal = pairs(CFG, **SHAPE)
    forwards = [drawn(CFG, legal, 3, i) for i in range(50)]
    assert [drawn(CFG, legal, 3, i) for i in reversed(range(50))][::-1] == forwards
    assert forwards != [drawn(CFG, legal, 4, i) for i in range(50)]
    code = (
        "from tests.training.test_points import CFG, SHAPE; from tokenprune.training.points import drawn, pairs;"
        "print([drawn(CFG, pairs(CFG, **SHAPE), 3, i) for i in range(50)])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip().splitlines()[-1] == str(forwards)


def test_draws_cover_the_lists_and_the_rates():
    legal = pairs(CFG, **SHAPE)
    points = [point for i in range(2000) for point in drawn(CFG, legal, 0, i)]
    counts = Counter(point[:3] for point in points)
    assert set(counts) == set(legal) and max(counts.values()) < 1.25 * min(counts.values())
    rates = Counter(point.keep_rate for point in points)
    assert set(rates) == {i / 100 for i in range(40, 91)}
    assert 0.22 < rates[0.4] / len(points) < 0.31  # a quarter, and a 51st of the rest
    assert all(0.4 <= rate <= 0.9 for rate in rates)


def test_rates_between_hundredths_stay_between_their_ends():
    narrow = ElasticConfig(keep_rates=(0.503, 0.507), lowest=0.0)
    legal = pairs(narrow, **SHAPE)
    assert {drawn(narrow, legal, 0, i)[0].keep_rate for i in range(40)} <= {0.503, 0.507, 0.505} | {0.5035}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keep_rates": (0.9, 0.4)}, r"keep_rates is \[0.9, 0.4\], allowed are two rates"),
        ({"keep_rates": (0.4, 1.0)}, "keep_rates is .* allowed are two rates 0 < lowest <= highest < 1"),
        ({"lowest": 1.5}, "lowest is 1.5, allowed is a share"),
        ({"draws": 0}, "draws is 0, allowed are 1 and more"),
        ({"distill": -1.0}, "distill is -1.0, allowed are 0 and more"),
        ({"schedules": {"stages": None}}, "schedules is empty, allowed are one or more of"),
        ({"selectors": ()}, "selectors is empty, allowed are one or more of"),
        ({"selectors": ("randon",)}, "selectors has 'randon'. Did you mean"),
        ({"selectors": ("svit",)}, "selectors has 'svit', whose own weights no draw would train alike"),
        ({"treatments": ("none",)}, "treatments has 'none', which drops nothing"),
        ({"schedules": {"per_block": {}}}, "schedules has 'per_block', which has no keep rate to draw, allowed are .*stages"),
        ({"losses": {"nothing": {}}}, "losses has 'nothing'"),
    ],
)
def test_values_that_do_not_fit(options, text):
    with pytest.raises(InvalidConfig, match=f"training.elastic.{text}"):
        ElasticConfig(**options)


def test_a_name_without_any_legal_pair_is_named_with_the_reason():
    with pytest.raises(InvalidConfig, match="'reactivate' has no legal pair in the lists: selector 'topk' x treatment 'reactivate'"):
        pairs(ElasticConfig(selectors=("topk",)), **SHAPE)


def test_it_is_read_as_a_part_of_a_recipe():
    recipe = read_settings(TrainingConfig, {"iterations": 3, "elastic": {"keep_rates": [0.3, 0.8], "selectors": ["random"]}}, "training")
    assert recipe.elastic == ElasticConfig(keep_rates=(0.3, 0.8), selectors=("random",))
    with pytest.raises(InvalidConfig, match="training.elastic.keep_rate is not a setting, did you mean 'keep_rates'"):
        read_settings(TrainingConfig, {"iterations": 3, "elastic": {"keep_rate": 0.3}}, "training")
