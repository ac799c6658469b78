"""The Pareto front against fronts found by hand."""

import pandas as pd

from tokenprune.report.figures.shared.pareto import costs_of, in_words, on_front
from tokenprune.report.figures.shared.plots import speed_accuracy

LINES = pd.DataFrame(
    {
        "label": ["dense", "good", "worse", "cheap", "same as good", "unknown"],
        "gmac_total": [10.0, 5.0, 6.0, 2.0, 5.0, None],
        "speedup_encoder": [1.0, 2.0, 3.0, 4.0, 2.0, 9.0],
        "top1": [80.0, 79.0, 78.0, 50.0, 79.0, 99.0],
    }
)


def test_nothing_on_the_front_is_beaten_in_both():
    assert list(on_front(LINES, "gmac_total", "top1")) == [True, True, False, True, True, False]
    assert list(on_front(LINES, "speedup_encoder", "top1", less=False)) == [False, False, False, False, False, True]
    assert list(on_front(LINES[:5], "speedup_encoder", "top1", less=False)) == [True, True, True, True, True]


def test_the_front_in_words_the_cheapest_first():
    assert in_words(LINES[:5], "top1", LINES["label"][:5])[0] == "Pareto front, encoder GMAC: cheap, good, same as good, dense."
    assert costs_of(LINES.assign(speedup_batch=float("nan"))) == ["gmac_total", "speedup_encoder"]


def test_the_plot_has_the_front_where_it_is_asked_for(tmp_path):
    facts = {"status": "ok", "method": "m", "treatment": "remove", "keep_rate": 0.7}
    for front in (False, True):
        left, _ = speed_accuracy(LINES[:5].assign(**facts), tmp_path / "a.png", front=front).axes
        drawn = [list(line.get_xdata()) for line in left.lines if line.get_label() == "Pareto front"]
        assert drawn == ([[2.0, 5.0, 5.0, 10.0]] if front else [])


def test_a_speed_up_in_batches_has_a_panel_of_its_own(tmp_path):
    facts = {"status": "ok", "method": "m", "treatment": "remove", "keep_rate": 0.7, "speedup_batch": 1.5}
    assert len(speed_accuracy(LINES.assign(**facts), tmp_path / "a.png").axes) == 3
