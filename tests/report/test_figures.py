"""Every figure on small models: its files, the numbers behind it, its errors. What it looks like has to be looked at."""

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers.fakes import row
from tests.helpers.rows import made
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure.usage import layers_per_token, reactivation
from tokenprune.registry import build
from tokenprune.report.figures.evo_vs_svit import overlaps
from tokenprune.report.figures.keep_rates import draw as draw_keep_rates
from tokenprune.report.figures.keep_rates import summarised
from tokenprune.report.figures.mean_usage import average
from tokenprune.report.figures.reactivation import count, middle, words
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.load import load_row
from tokenprune.runs.reports import Sweep
from tokenprune.runs.validation import validate
from tokenprune.tasks.pictures import Picture
from tokenprune.utils.paths import config_dir

pytestmark = pytest.mark.system

FIGURES = {
    "usage_maps": {"pictures": [0, 1, 2, 3, 99], "score": 0.0},
    "reactivation": {"picture": 1, "blocks": [6, 7]},
    "mean_usage": {},
    "evo_vs_svit": {"pictures": [2, 5]},
    "foreground": {"images": 3, "score": 0.0, "pictures": [0]},
}

NUMBERS = {4: "usage_maps", 5: "reactivation", 6: "mean_usage", 7: "keep_rates", 10: "evo_vs_svit", 11: "foreground"}  # in the paper


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
    folder = tmp_path_factory.mktemp("results")
    rows = [made(folder, f"method={method}", "task.heads.score=0.0") for method in ("evo_vit", "svit")]
    return folder, rows


@pytest.fixture(scope="module")
def pictures(results):
    folder, rows = results
    return [list(load_row(r, folder).pictures(predict=False)) for r in rows]


def report(name, results, folder, **options):
    folder.mkdir(exist_ok=True)
    root, rows = results
    wrote = build("report", {"name": name, **options})(Sweep("made_up", rows, folder, root))
    assert sorted(wrote) == sorted(p.name for p in folder.iterdir()) and f"{name}.png" in wrote
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return pd.read_csv(folder / f"{name}.csv")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_made_twice_the_same(name, results, tmp_path, capsys):
    first, again = (report(name, results, tmp_path / n, **FIGURES[name]) for n in ("a", "b"))
    assert first.equals(again) and len(first)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_numbers_of_usage_maps(results, pictures, tmp_path):
    table = report("usage_maps", results, tmp_path / "t", **FIGURES["usage_maps"])
    assert list(table["picture"].unique()) == [0, 1, 2, 3]
    for number, part in table.groupby("picture"):
        counts = layers_per_token(pictures[1][number].used.flatten(1))
        assert part["blocks"].tolist() == counts.tolist() and part["row"].tolist()[:9] == [0] * 8 + [1]


def test_numbers_of_reactivation(results, pictures, tmp_path, capsys):
    table = report("reactivation", results, tmp_path / "t", **FIGURES["reactivation"])
    back = reactivation(torch.stack([p.used.flatten(1) for p in pictures[1]]))
    assert np.allclose(table["again_share"], back.share.nanmean(0), equal_nan=True) and table["again_share"][11] == 0
    assert table["again_share"][:3].isna().all() and list(table["pictures_pruned"][:3]) == [0, 0, 0]
    assert np.allclose(table["following_of_again"], back.share_following.nanmean(0), equal_nan=True)
    assert np.allclose(table["pruned_share"], back.pruned.float().mean(0) / 64)
    share = int(back.again.sum()) / int(back.pruned.sum())
    assert f"{share:.1%} of pruned tokens are used again" in capsys.readouterr().out
    cells = pd.read_csv(tmp_path / "t" / "reactivation_picture.csv")
    used = pictures[1][1].used
    assert list(cells["block"].unique()) == [6, 7] and (cells["state"] == 0).sum() == int(used[6:8].sum())
    assert (cells["state"] == 2).sum() == sum(int((~used[b:].any(0)).sum()) for b in (6, 7))


def test_reactivation_of_a_model_that_prunes_nothing_and_of_one_that_prunes_for_good():
    def of(used):
        return count([Picture(0, np.zeros((8, 8, 3), np.uint8), used, 4)])

    everything = of(torch.ones(4, 2, 2, dtype=torch.bool))
    assert words(everything) == "reactivation: no block prunes a token" and middle(everything.table) == (0, 1, 2, 3)
    halves = torch.ones(4, 2, 2, dtype=torch.bool)
    halves[2:, 0] = False
    assert of(halves).tokens == (4, 0, 0) and middle(of(halves).table) == (2,)


def test_numbers_of_mean_usage(results, pictures, tmp_path):
    table = report("mean_usage", results, tmp_path / "t", images=4)
    expected = torch.stack([layers_per_token(p.used.flatten(1)) for p in pictures[1][:4]]).float().mean(0)
    assert np.allclose(table["mean_blocks"], expected) and set(table["map"]) == {"token grid 8 x 8"}
    table = report("mean_usage", results, tmp_path / "u", size=[5, 7])
    assert len(table) == 35 and set(table["map"]) == {"resized to 5 x 7"} and table["mean_blocks"].between(3, 12).all()


def test_maps_of_several_grids_are_resized_before_they_are_averaged():
    def picture(grid, blocks):
        used = torch.zeros(4, *grid, dtype=torch.bool)
        used[:blocks] = True
        return Picture(0, np.zeros((8, 8, 3), np.uint8), used, 4)

    mean = average([picture((2, 3), 4), picture((3, 2), 1), picture((3, 2), 1)], None)
    assert mean.map.shape == (50, 80) and mean.resized and torch.allclose(mean.map, torch.tensor(2.0).double())
    assert not average([picture((2, 3), 4)], (2, 3)).resized


def test_numbers_of_evo_vs_svit(results, pictures, tmp_path, capsys):
    table = report("evo_vs_svit", results, tmp_path / "t", pictures=[2, 5])
    assert table.groupby("method", sort=False).size().tolist() == [24, 24]
    assert table["method"].iloc[0] == "Evo-ViT" and "Evo-ViT" in capsys.readouterr().out
    used = pictures[1][5].used
    line = table[(table["method"] == "SViT") & (table["picture"] == 5) & (table["block"] == 7)].iloc[0]
    assert line["kept_share"] == pytest.approx(float(used[7].float().mean()))
    assert line["same_as_before"] == pytest.approx(float((used[7] & used[6]).sum() / (used[7] | used[6]).sum()))


def test_overlap_is_of_blocks_that_prune():
    used = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool).unsqueeze(1)
    table = overlaps({"m": [Picture(0, np.zeros((4, 12, 3), np.uint8), used, 4)]})
    assert table["same_as_before"].round(3).fillna(-1).tolist() == [-1, -1, 0.333, 1, 0, -1]  # 0 of 0 tokens is no number


def test_numbers_of_foreground(results, tmp_path):
    folder, rows = results
    table = report("foreground", results, tmp_path / "t", images=3, score=0.0, cover=0.4)
    inside = [(p.foreground(0.0, 0.4), p.used) for p in load_row(rows[1], folder).pictures(range(3))]
    for name, side in (("foreground", True), ("background", False)):
        shares = [used[8][fg == side].float().mean() for fg, used in inside if bool((fg == side).any())]
        assert table[f"{name}_pictures"][8] == len(shares) > 0
        assert table[name][8] == pytest.approx(float(np.mean(shares))) and table[f"{name}_std"][8] == pytest.approx(float(np.std(shares)))


def test_without_any_foreground_the_figure_says_so(results, tmp_path, capsys):
    table = report("foreground", results, tmp_path / "t", images=2, score=1.0)
    assert table["foreground"].isna().all() and table["background"].notna().all()
    assert "no picture has a foreground token" in capsys.readouterr().out


def test_foreground_needs_predicted_masks(tmp_path):
    result = made(tmp_path, "method=svit", "task=classification")
    with pytest.raises(TokenPruneError, match="predicts no masks.*use task=detection"):
        report("foreground", (tmp_path, [result]), tmp_path / "t")


def keep(rate, ap, **changes):
    config = {"schedule": {"name": "every_block", "keep_rate": rate}}
    return row(label="SViT", method="svit", treatment="reactivate", config=config, metrics={"ap_box": ap, "ap_box_se": 0.6}, **changes)


DENSE = row(label="Dense", method="dense", treatment="none", config={"schedule": {"name": "none"}}, cost={"speedup_encoder": 1.0})


def test_keep_rates_of_one_seed_have_bootstrap_errors(tmp_path):
    table = report("keep_rates", (tmp_path, [DENSE, keep(0.5, 40.0), keep(0.9, 44.0)]), tmp_path / "t")
    assert table["keep_rate"].fillna(1).tolist() == [1, 0.5, 0.9] and table["ap_box"].tolist() == [40.0, 40.0, 44.0]
    assert table["ap_box_error"].tolist() == [0.6] * 3 and set(table["error"]) == {"bootstrap standard error over images"}
    assert table["time_relative"].tolist() == [1.0, 0.5, 0.5]


def test_keep_rates_of_several_seeds_have_their_spread(tmp_path):
    rows = [keep(0.5, 40.0), keep(0.5, 42.0, seed=1), row(status="failed", metrics={"ap_box": 9.0})]
    table = report("keep_rates", (tmp_path, rows), tmp_path / "t", time="seconds")
    assert table["seeds"].tolist() == [2] and table["ap_box"][0] == 41.0 and table["ap_box_error"][0] == pytest.approx(2**0.5)
    assert "over seeds" in table["error"][0]


def test_keep_rates_of_untimed_rows_are_drawn_against_gmac(tmp_path):
    untimed = {"seconds_encoder": None, "seconds_total": None, "speedup_encoder": None}
    assert report("keep_rates", (tmp_path, [keep(0.5, 40.0, cost=untimed)]), tmp_path / "t")["time_relative"].isna().all()


def test_curves_of_one_label_are_told_apart_by_treatment(tmp_path):
    points = summarised([DENSE, keep(0.5, 40.0), keep(0.7, 42.0), keep(0.5, 30.0) | {"treatment": "preserve"}])
    box, _, _, legend = draw_keep_rates(points, "relative", "made up").axes
    names = [text.get_text() for text in legend.get_legend().get_texts()] if legend.get_legend() else box.get_legend_handles_labels()[1]
    assert names == ["Dense", "SViT, reactivate", "SViT, preserve"]
    assert sorted(text.get_text() for text in box.texts) == ["0.5", "0.5", "0.7"]


@pytest.mark.parametrize("name", [*FIGURES, "keep_rates"])
def test_without_its_rows_a_figure_says_what_is_missing(name, tmp_path):
    sweep = Sweep("made_up", [row(status="failed", reason="a bug")], tmp_path, tmp_path)
    with pytest.raises(TokenPruneError, match="no finished row"):
        build("report", {"name": name})(sweep)


def test_a_row_of_another_method_does_not_stand_in(tmp_path):
    with pytest.raises(TokenPruneError, match=r"method 'svit' to show; rows: evit \(ok\); sweep over method=svit too"):
        build("report", "usage_maps")(Sweep("made_up", [row()], tmp_path, tmp_path))


def test_pictures_that_the_split_lacks_are_refused(results, tmp_path):
    with pytest.raises(TokenPruneError, match=r"pictures \[99\]: the validation split has none of them; give indices from 0 on"):
        report("usage_maps", results, tmp_path / "t", pictures=[99])
    with pytest.raises(InvalidConfig, match=r"blocks is \[3, 12\]; allowed: one or more of 0 to 11"):
        report("reactivation", results, tmp_path / "t", blocks=[3, 12])


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
@pytest.mark.parametrize(("figure", "name"), NUMBERS.items())
def test_experiments_of_figures_validate_and_are_described(figure, name, scale):
    experiment = f"fig{figure}_{name}"
    config = resolve(compose([f"+experiment={experiment}", "method=svit", f"scale={scale}"]))
    validate(config, files=False)
    assert config["experiment"] == experiment and config["reports"][name] is not None
    assert f"+experiment={experiment}" in (config_dir().parent / "experiments" / experiment / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("usage_maps", {"pictures": 3}, "reports.usage_maps.pictures is 3, allowed is a tuple"),
        ("usage_maps", {"score": 2.0}, "reports.usage_maps.score is 2.0; allowed: 0 to 1"),
        ("foreground", {"cover": 0}, "reports.foreground.cover is 0.0; allowed: above 0"),
        ("foreground", {"images": 0}, "reports.foreground.images is 0; allowed: 1 and more, null"),
        ("mean_usage", {"size": [0, 80]}, r"reports.mean_usage.size is \(0, 80\); allowed: two numbers from 1 on"),
        ("keep_rates", {"time": "fps"}, "reports.keep_rates.time is 'fps'; allowed: relative, seconds"),
        ("evo_vs_svit", {"methods": []}, "reports.evo_vs_svit.methods is empty"),
    ],
)
def test_options_are_checked_before_the_sweep(name, options, message):
    with pytest.raises(InvalidConfig, match=message):
        build("report", {"name": name, **options})
