"""One report of a folder of rows: what is collected, what is left out and said so, and the files that come of it."""

import csv
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.fakes import row
from tokenprune.report.__main__ import main
from tokenprune.report.page.gather import SINGLE, gather, natural
from tokenprune.report.page.sections import apart
from tokenprune.runs.results import write_result
from tokenprune.utils.files import atomic_write

ROOT = Path(__file__).parents[2]
MEASURED = ("table2_preserve", "table5_sota", "cropr_table1_imagenet", "fig7_keep_rates")


def evit(key: str, ap: float, **changes):
    experiment = changes.pop("experiment", "table2_preserve")
    config = {"experiment": experiment, "schedule": {"name": "stages", "keep_rate": 0.7}, "seed": changes.get("seed", 0)}
    return row(key=key, config=config, metrics={"ap_box": ap, "ap_box_se": 0.6}, **changes)


@pytest.fixture
def results(tmp_path) -> Path:
    """A results folder: two seeds of one configuration, a row on another device, a diverged one, a broken one, one of no experiment."""
    made = [
        evit("a0", 40.0),
        evit("a1", 43.0, seed=1),
        evit("b0", 50.0, environment={"device": "another machine"}),
        evit("c0", 0.0, label="ATS", status="diverged", reason="loss is nan & <b>so</b> on") | {"metrics": {}, "cost": {}},
        evit("d0", 12.5, experiment=None, label="Alone"),
    ]
    for one in made:
        write_result(tmp_path / "rows" / one["key"], one)
    (tmp_path / "rows" / "broken").mkdir()
    (tmp_path / "rows" / "broken" / "result.json").write_text("{")
    (tmp_path / "rows" / "running").mkdir()
    return tmp_path


class Outside(HTMLParser):
    """Every address that a page reaches for, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", "", re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.S)).split())


def test_rows_are_collected_and_bad_ones_named(results):
    found = gather(results)
    assert [e.name for e in found.experiments] == ["table2_preserve", SINGLE]
    assert list(found.experiments[0].data["key"]) == ["a0", "a1", "b0", "c0"] and list(found.experiments[1].data["label"]) == ["Alone"]
    where, why = zip(*found.unreadable, strict=True)
    assert where == ("rows/broken", "rows/running") and "is no readable result" in why[0] and "no result yet" in why[1]


def test_devices_never_share_a_table(results, tmp_path, capsys):
    assert main([str(results)]) == 0
    out = results / "report"
    text = text_of(page_of(out))
    assert "device: another machine" in text and "several devices" not in text
    first, second = (pd.read_csv(out / "table2_preserve" / f"table_{n}.csv") for n in (1, 2))
    assert list(first["key"]) == ["a0", "a1", "c0"] and list(second["key"]) == ["b0"]
    assert "41.5 ± 2.1" in text and "40.0, 43.0" in text  # mean and deviation of 40 and 43: 3 / sqrt(2)
    assert (out / "table2_preserve" / "table_1_seeds.csv").is_file() and "paper box AP" in text
    said = capsys.readouterr()
    assert "left out: rows/broken" in said.err and "report.html" in said.out


def test_rows_of_two_executions_or_tasks_are_apart_too():
    data = pd.DataFrame({"task": ["x", "x", "y"], "data": "d", "scale": "s", "device": "cpu", "execution": ["auto", "masked", "auto"]})
    assert [heading for heading, _ in apart(data)] == [
        f"task: {t}, execution: {e}" for t, e in (("x", "auto"), ("x", "masked"), ("y", "auto"))
    ]
    assert [heading for heading, _ in apart(data[:1])] == [""]


def test_what_is_not_ok_stands_in_the_overview_escaped(results):
    main([str(results)])
    page = page_of(results / "report")
    assert "loss is nan &amp; &lt;b&gt;so&lt;/b&gt; on" in page and "<b>so" not in page
    text = text_of(page)
    assert "2 experiments with 5 rows: 4 ok, 1 diverged. 2 could not be read and are left out." in text and "ATS remove, seed 0" in text


def test_rows_of_a_table_keep_its_names_and_order(results):
    table = results / "tables" / "mine"
    table.mkdir(parents=True)
    lines = [["key", "label", "method", "treatment", "seed", "status"], ["b0", "First", "m", "preserve", 0, "ok"]]
    lines += [["a0", "Second", "m", "remove", 0, "ok"], ["gone", "Third", "m", "remove", 0, "ok"]]
    with (table / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    found = gather(results, ["mine"])
    assert list(found.experiments[0].data["label"]) == ["First", "Second"]
    assert ("tables/mine/table.csv", "row Third (gone) is gone from rows/; run it again") in found.unreadable


def test_models_that_rows_start_from_are_counted_and_not_listed(tmp_path):
    for one in (evit("f00d", 50.0, label="Dense"), evit("a0", 40.0) | {"notes": ["starts from the dense run f00d"]}):
        write_result(tmp_path / "rows" / one["key"], one)
    found = gather(tmp_path)
    assert found.starts == 1 and list(found.experiments[0].data["key"]) == ["a0"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: folder / "nowhere", "there is no folder .*nowhere; give a results folder"),
        (lambda folder: folder, "holds no result row: no rows/"),
    ],
)
def test_without_rows_there_is_no_report(prepare, message, tmp_path, capsys):
    assert main([str(prepare(tmp_path)), "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_an_unknown_experiment_is_refused_with_those_that_are_there(results, capsys):
    assert main([str(results), "--experiment", "tabel2"]) == 2
    assert f"has no experiment tabel2; it has table2_preserve, {SINGLE}" in capsys.readouterr().err


def test_a_bad_line_of_a_csv_costs_itself_alone(tmp_path, capsys):
    folder = tmp_path / "sweep" / "measured"
    folder.mkdir(parents=True)
    head = "key,label,method,treatment,scale,task,data,seed,cls,execution,keep_rate,top1,gmac_total,device,status,reason"
    good = "k{0},EViT,evit,remove,smoke,classification,shapes,{0},learned,auto,0.7,{1},4,cpu,ok,"
    bad = [good.format(7, "many"), "too,few", good.format(8, 1.0).replace(",ok,", ",fine,"), good.format("", 1.0)]
    lines = [head, good.format(0, 10.0), *bad, good.format(1, 20.0)]
    atomic_write(folder / "table.csv", lambda part: part.write_text("\n".join(lines) + "\n"))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    for part in (
        "line 3: top1 is 'many', expected a number",
        "line 4: has more or fewer fields",
        "line 5: status is 'fine'",
        "line 6: has no seed",
    ):
        assert part in said
    text = text_of(page_of(tmp_path / "out"))
    assert "15.00 ± 7.07" in text and "4 could not be read" in text
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0  # its own tables are not rows of the next report
    assert "1 experiment with 2 rows: 2 ok." in text_of(page_of(tmp_path / "out"))


@pytest.mark.system
def test_the_committed_tables_make_a_static_page_that_needs_nothing_else(tmp_path):
    assert main([str(ROOT / "experiments"), "--static", "--out", str(tmp_path), "--experiment", *MEASURED]) == 0
    page = page_of(tmp_path)
    seen = Outside()
    seen.feed(page)
    assert not {"script", "link", "iframe", "object"} & seen.tags and "@import" not in page and "url(" not in page
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in seen.addresses)
    assert seen.addresses.count("data:") == 0 and page.count("<figure>") == 6  # a plot each, Figure 7, and curves of Table 1
    text = text_of(page)
    assert "94.1 ± 0.4" in text and "65.06 ± 0.28" in text and "paper box AP" in text and "Pareto front, encoder GMAC:" in text
    for name in MEASURED:
        files = {path.name for path in (tmp_path / name).iterdir()}
        assert {"table.csv", "table.md", "table.tex", "speed_accuracy.png"} <= files
        assert f"]({name}/speed_accuracy.png)" in (tmp_path / "report.md").read_text()


def test_experiments_are_sorted_as_people_count():
    assert sorted(["fig10", SINGLE, "fig4", "table2"], key=natural) == ["fig4", "fig10", "table2", SINGLE]


def test_an_edited_method_is_not_a_second_seed(tmp_path, capsys):
    """Rows of before there was `made` go by the time of their file."""
    for key, ap, age in (("b9", 10.0, 200), ("a0", 30.0, 100), ("c5", 20.0, 300)):
        path = write_result(tmp_path / "rows" / key, evit(key, ap))
        os.utime(path, (time.time() - age,) * 2)
    assert main([str(tmp_path)]) == 0
    text = text_of(page_of(tmp_path / "report"))
    assert "30.0 ± 0.6" in text and "of each seed" not in text and "standard deviation over seeds" not in text
    assert "row b9; row a0 stands above" in text and "row c5; row a0 stands above" in text
