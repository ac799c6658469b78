"""Fixed rows -> the table, in every format, with the paper's numbers beside them."""

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.report.tables.formats import to_latex, to_markdown, to_text
from tokenprune.report.tables.table import build
from tokenprune.runs.reports import Sweep, make_reports
from tokenprune.runs.summary import summary
from tokenprune.utils.paths import expected_of

DENSE = {"config": {"schedule": {"name": "none"}}, "label": "Dense", "method": "dense", "treatment": "none"}


def evit(treatment: str, ap: float, **changes):
    return row(treatment=treatment, metrics={"ap_box": ap, "ap_box_se": 0.6}, **changes)


def report(name, rows, folder):
    assert make_reports({"table": {}, "plot": {}}, Sweep(name, rows, folder, folder)) == []


@pytest.fixture
def rows() -> list[dict]:
    return [
        row(
            **DENSE,
            metrics={"ap_box": 50.0, "ap_box_se": 0.7},
            cost={"gmac_total": 8.0, "seconds_encoder": 0.020, "seconds_total": 0.030, "speedup_encoder": 1.0},
        ),
        evit("remove", 40.0),
        evit("preserve", 44.0),
        row(label="ATS", method="ats", status="diverged", reason="loss is nan") | {"metrics": {}, "cost": {}},
    ]


def test_numbers_errors_and_speed_ups(rows):
    table = build(rows, expected_of("table2_preserve"))
    shown = table.shown.set_index(["Method", "Treatment"])
    evit = shown.loc[("EViT", "remove")]
    assert evit["box AP"] == "40.0 ± 0.6" and evit["keep_rate"] == "0.7" and evit["GMAC encoder"] == "4"
    assert evit["encoder speed-up"] == "2.00" and evit["total s/img"] == "0.0200"
    assert shown.loc[("Dense", "none"), "keep_rate"] == "—" and shown.loc[("Dense", "none"), "encoder speed-up"] == "1.00"
    assert shown.loc[("ATS", "remove"), "status"] == "diverged" and shown.loc[("ATS", "remove"), "box AP"] == "—"
    assert list(shown.index) == [("Dense", "none"), ("EViT", "remove"), ("EViT", "preserve"), ("ATS", "remove")]


def test_the_papers_numbers_stand_beside_rows_of_their_keep_rate(rows):
    other = row(config={"schedule": {"keep_rate": 0.5}})
    shown = build([*rows, other], expected_of("table2_preserve")).shown
    assert list(shown["paper box AP"]) == ["45.8", "44.5", "44.7", "43.9", "—"]
    assert list(shown["paper mask AP"])[:2] == ["40.9", "39.8"] and list(shown["paper FPS"])[0] == "18.45"


def test_speed_at_the_papers_size_stands_beside_the_papers_own(rows):
    assert "paper FPS speed-up" not in build(rows, expected_of("table2_preserve")).shown
    for one, speedup, kept in zip(rows, (1.0, 1.8), (1.0, 0.69), strict=False):
        note = "random weights of width 192, 1344 x 800 px"
        one["cost"] |= {
            "speedup_paper_size": speedup,
            "seconds_paper_size": 2.0,
            "kept_share_paper_size": kept,
            "paper_size_note": note,
        }
    table = build(rows, expected_of("table2_preserve"))
    assert list(table.shown["speed-up at the paper's size"]) == ["1.00", "1.80", "—", "—"]
    assert list(table.shown["kept there"]) == ["1.000", "0.690", "—", "—"]
    assert list(table.shown["paper FPS speed-up"]) == ["1.00", "1.23", "1.24", "0.89"]  # 22.76 / 18.45, ...
    assert "random weights of width 192, 1344 x 800 px; not the model of the AP columns" in to_text(table)


def test_preserve_minus_remove_is_reported_as_found(rows):
    text = to_text(build(rows))
    assert "EViT at 0.7, seed 0: box AP +4.0 ± 0.8" in text  # sqrt(.6^2 + .6^2)
    worse = [evit("remove", 44.0), evit("preserve", 40.0)]
    assert "box AP -4.0 ± 0.8" in to_text(build(worse))
    assert "minus" not in to_text(build(rows[:2]))


def test_rows_of_one_seed_each_say_which():
    table = build([evit("remove", 40.0, seed=0), evit("preserve", 42.0, seed=1)])
    assert list(table.shown["seed"]) == ["0", "1"] and "minus" not in to_text(table) and table.seeds is None


def test_rows_of_two_machines_are_told_apart(rows):
    rows[1] = row(environment={"device": "another"})
    assert "several devices" in to_text(build(rows))


def test_masked_rows_have_no_speed(rows):
    rows[1] = row(cost={"seconds_encoder": None, "seconds_total": None, "speedup_encoder": None})
    shown = build(rows).shown
    assert shown["encoder s/img"][1] == shown["encoder speed-up"][1] == shown["total s/img"][1] == "—"


def test_formats(rows):
    table = build(rows, expected_of("table2_preserve"))
    lines = to_markdown(table, "t").splitlines()
    assert lines[0] == "# t" and lines[2].count("|") == lines[3].count("|") == lines[4].count("|") == len(table.shown.columns) + 1
    tex = to_latex(table, "t")
    assert r"\toprule" in tex and r"40.0 $\pm$ 0.6" in tex and r"keep\_rate" in tex and "±" not in tex
    assert tex.count(r"\\") == len(rows) + 1
    text = to_text(table)
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1 and "ATS remove, seed 0: diverged: loss is nan" in text


def test_the_report_writes_four_files(rows, tmp_path, capsys):
    report("table2_preserve", rows, tmp_path / "tables")
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == ["plot.png", "table.csv", "table.md", "table.tex"]
    assert (tmp_path / "tables" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "Preserve minus remove" in capsys.readouterr().out


def test_a_table_without_an_ok_row_has_no_plot(rows, tmp_path):
    report("sweep", rows[3:], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "table.md", "table.tex"]


def test_masked_rows_are_not_timed_and_still_shown(tmp_path):
    untimed = row(execution="masked", cost={"seconds_encoder": None, "seconds_total": None, "speedup_encoder": None})
    report("sweep", [untimed], tmp_path)
    assert "speed not measured" in summary(untimed, "results")


def test_rows_of_time_alone_show_frames_per_second_and_no_differences(tmp_path, capsys):
    def timed(treatment):
        cost = {"seconds_backbone": 0.04, "seconds_total": 0.05}
        return {**row(treatment=treatment, cost=cost), "metrics": {}}

    rows = [timed("remove"), timed("preserve"), {**row(label="SViT"), "status": "oom", "metrics": {}, "cost": {}}]
    shown = build(rows).shown
    assert list(shown["FPS backbone"]) == ["25.00", "25.00", "—"] and list(shown["FPS whole"]) == ["20.00", "20.00", "—"]
    assert not {"box AP", "top-1"} & set(shown.columns) and "FPS" not in build([row()]).shown
    report("speed", rows, tmp_path)
    assert "minus" not in capsys.readouterr().out and not (tmp_path / "plot.png").exists()
    assert "accuracy not measured" in summary(rows[0], "results") and "backbone 0.04 s/image" in summary(rows[0], "results")


def test_classification_rows_show_top1():
    table = build([row(task="classification") | {"metrics": {"top1": 71.24, "top1_se": 1.0}}])
    assert table.shown["top-1"][0] == "71.2 ± 1.0" and "box AP" not in table.shown


def test_macs_are_shown_as_cropr_counts_them_beside_its_numbers():
    costs = {"gmac_linear": 33.9, "gmac_attention": 0.77, "gmac_selector": 2.6}
    rows = [row(label="Cropr MHA", treatment="last_layer_fusion", cost=costs), {**row(label="Cropr"), "status": "oom", "cost": {}}]
    table = build(rows, expected_of("cropr_table4_ablations"))
    assert list(table.shown["linear GMAC"]) == ["36.5", "—"] and list(table.shown["paper linear GMAC"]) == ["36.8", "34.2"]
    assert "without the products of attention" in to_text(table) and "linear GMAC" not in build(rows).shown


def test_the_plot_marks_treatments_and_the_dense_line(rows, tmp_path):
    from tokenprune.report.figures.shared.plots import speed_accuracy

    left, right = speed_accuracy(build(rows).data, tmp_path / "plot.png").axes
    assert [left.get_xlabel(), right.get_xlabel(), left.get_ylabel()] == ["encoder GMAC", "encoder speed-up over dense, batch 1", "box AP"]
    assert len(left.containers) == 3  # three rows are ok
    assert left.get_legend_handles_labels()[1] == ["Dense", "EViT, remove", "EViT, preserve"]
    assert any(line.get_linestyle() == "--" and set(line.get_ydata()) == {50.0} for line in left.lines)


def test_the_plot_has_a_panel_for_each_cost_that_was_measured(rows, tmp_path):
    from tokenprune.report.figures.shared.plots import speed_accuracy

    data = build(rows).data
    (only,) = speed_accuracy(data.assign(speedup_encoder=float("nan")), tmp_path / "plot.png").axes
    assert only.get_xlabel() == "encoder GMAC"
    nothing = data.assign(speedup_encoder=float("nan"), gmac_total=float("nan"))
    assert [axis.get_xlabel() for axis in speed_accuracy(nothing, tmp_path / "plot.png").axes] == ["encoder GMAC"]


def test_the_plot_names_keep_rates_where_a_method_has_several(rows, tmp_path):
    from tokenprune.report.figures.shared.plots import speed_accuracy

    data = build(rows).data.assign(keep_rate=[0.1 * number for number in range(len(rows))])  # each method at its own
    assert not any(axis.texts for axis in speed_accuracy(data, tmp_path / "plot.png").axes)
    several = pd.concat([data, data.assign(keep_rate=data["keep_rate"] + 0.05)], ignore_index=True)
    assert all(axis.texts for axis in speed_accuracy(several, tmp_path / "plot.png").axes)


def test_the_plot_tells_class_tokens_apart_where_a_method_has_two(rows, tmp_path):
    from tokenprune.report.figures.shared.plots import speed_accuracy

    left, _ = speed_accuracy(build([*rows, evit("remove", 38.0, cls="random")]).data, tmp_path / "plot.png").axes
    handles, labels = left.get_legend_handles_labels()
    assert labels == ["Dense", "EViT, remove, learned CLS", "EViT, preserve", "EViT, remove, random CLS"]
    assert [bar.lines[0].get_markerfacecolor() == "white" for bar in handles] == [False, False, False, True]
