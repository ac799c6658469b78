"""What the interactive part of a report holds: lines, spread, commands, the same images, token maps; and pages without it."""

import json
import re

import pytest
import torch

from tests.helpers.report_rows import EXPERIMENT, classified, judged, results
from tokenprune.errors import MissingDependency
from tokenprune.measure.paired import compared
from tokenprune.measure.resamples import Resampled
from tokenprune.report.__main__ import main
from tokenprune.report.explorer import chart, explorer
from tokenprune.report.explorer.metrics import METRICS
from tokenprune.report.page.gather import gather
from tokenprune.report.page.sections import section
from tokenprune.runs.results import row_folder, write_result
from tokenprune.runs.row import RESAMPLED
from tokenprune.utils.checkpoints import save_weights

pytest.importorskip("altair", reason="the extra `page` is not installed")


def lines_in(folder, out):
    content = explorer([section(experiment, out / experiment.name) for experiment in gather(folder).experiments]).content
    return {line["name"]: line for line in content["lines"]}, content


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    return lines_in(results(folder / "results"), folder / "out")


def test_a_line_has_its_numbers_its_spread_and_what_a_block_keeps(held):
    lines, _ = held
    evit, dense = lines["Evit, remove, 0.7"], lines["Dense"]
    assert evit["values"]["top1"] == 62.0 and evit["errors"]["top1"] == pytest.approx(8**0.5)
    assert evit["spread"] == "standard deviation over 2 seeds" and evit["by_seed"]["top1"] == {"0": 60.0, "1": 64.0}
    assert evit["values"]["latency"] == pytest.approx(20.0) and evit["values"]["images_s_1"] == pytest.approx(50.0)
    assert (evit["setting"], evit["rate"], evit["kept"]) == ("schedule stages, keep_rate 0.7", 0.7, [1.0, 0.5])
    assert dense["selector"] == "none" and dense["ranges"]["speedup"] == pytest.approx([0.975, 1.025])
    assert dense["spread"].startswith("bootstrap") and dense["rows"] == ["results/rows/d0"]


def test_the_command_is_the_recorded_one_or_one_of_the_names(held):
    lines, _ = held
    assert lines["Tome, merge"]["command"] == {"text": "tokenprune run method=tome 'data.root=/a b'", "typed": True}
    said = lines["Evit, remove, 0.7"]["command"]
    assert not said["typed"] and said["text"].endswith("method=evit treatment=remove schedule.keep_rate=0.7")


def test_a_row_that_is_not_ok_is_a_line_without_numbers(held):
    lines, _ = held
    assert (lines["Ats, remove"]["status"], lines["Ats, remove"]["why"], lines["Ats, remove"]["values"]) == (
        "diverged",
        "the loss is nan",
        {},
    )


def test_the_same_images_are_compared_seed_by_seed(held):
    lines, content = held
    numbers = {line["id"]: name for name, line in lines.items()}
    found = {(numbers[a], numbers[b], seed): rest for a, b, seed, *rest in content["pairs"]}
    assert len(found) == 6 and {seed for *_, seed in found} == {0}  # the other seed has one row alone
    images, first, second, gap, low, high, p, agrees = found[("Dense", "Evit, remove, 0.7", 0)]
    right = torch.arange(200)
    direct = compared(right < 150, right < 120)
    assert (images, first, second, gap) == (200, 30, 0, 15.0) and p == direct.p and agrees == 85.0
    assert (low, high) == pytest.approx(direct.interval, abs=1e-3)


def test_rows_of_other_images_are_not_compared(tmp_path):
    judged(tmp_path, classified("a0", "evit", 60.0, 2.0, rate=0.7), 120)
    judged(tmp_path, classified("a1", "tome", 60.0, 2.0), 120, true=torch.arange(200) % 7)
    assert lines_in(tmp_path, tmp_path / "out")[1]["pairs"] == []


def test_detectors_are_compared_over_resamples(tmp_path):
    for key, treatment, shift in (("a0", "remove", 0.0), ("a1", "preserve", 2.0), ("a2", "merge", 3.0)):
        one = classified(key, "evit", 60.0, 2.0, rate=0.7, treatment=treatment) | {"task": "detection", "label": f"EViT {treatment}"}
        write_result(row_folder(tmp_path, key), one | {"metrics": {"ap_box": 50.0 + shift}})
        values = {"ap_box": torch.tensor([49.0, 51.0, 50.0]).double() + shift * torch.tensor([0.5, 1.0, 1.5])}
        save_weights(row_folder(tmp_path, key) / RESAMPLED, Resampled(values, 300, 1 if shift < 3 else 2).tensors)
    lines, content = lines_in(tmp_path, tmp_path / "out")
    ((one, other, *found),) = content["resamples"]  # the third row saw other pictures
    assert content["pairs"] == [] and {one, other} == {line["id"] for name, line in lines.items() if "merge" not in name}
    sign = 1 if next(line["id"] for name, line in lines.items() if "preserve" in name) == one else -1
    assert found[:4] == [0, "ap_box", 300, 2.0 * sign] and found[-1] == pytest.approx(0.0455, abs=1e-4)
    assert sorted(sign * end for end in found[4:6]) == pytest.approx([0.04, 3.96])


def test_token_maps_find_their_rows(held):
    lines, _ = held
    assert lines["Evit, remove, 0.7"]["map"] == [[3.0, 4.0, 5.0]] * 2 and lines["Tome, merge"]["map"] == [[6.0, 7.0, 8.0]] * 2
    assert lines["Random, remove, 0.5"]["map"] is None


@pytest.mark.parametrize("value", [None, float("nan"), 0.0, "diverged"])
def test_a_number_that_is_none_is_left_out(value):
    fps = next(metric for metric in METRICS if metric.inverse)
    assert fps.of(value) is None and fps.of(0.02) == pytest.approx(50.0)


def test_the_page_is_one_file_and_static_on_request(tmp_path):
    folder = results(tmp_path / "results")
    assert main([str(folder)]) == 0
    page = (folder / "report" / "report.html").read_text()
    assert "vegaEmbed" in page and not re.search(
        r"<(link|iframe|object)|@import|(src|href)=[\"']?(https?:|//)", page.replace(chart.script(), "")
    )
    content = json.loads(re.search(r'id="content">(.*?)</script>', page, re.S).group(1))
    assert {line["experiment"] for line in content["lines"]} == {EXPERIMENT}
    assert main([str(folder), "--static"]) == 0
    assert "<script" not in (folder / "report" / "report.html").read_text()


def test_without_the_extra_the_page_is_static_and_says_so(tmp_path, monkeypatch, capsys):
    chart.specification.cache_clear()
    monkeypatch.setattr("builtins.__import__", _refusing(__import__))
    with pytest.raises(MissingDependency, match=r"pip install 'tokenprune\[page\]'"):
        chart.specification()
    folder = results(tmp_path / "results")
    assert main([str(folder)]) == 0
    assert "without its interactive part" in capsys.readouterr().err
    assert "<script" not in (folder / "report" / "report.html").read_text()


def _refusing(real):
    def load(name, *more, **named):
        if name in ("altair", "vl_convert"):
            raise ImportError(name)
        return real(name, *more, **named)

    return load


def test_a_text_cannot_leave_the_data_of_the_page(tmp_path):
    bad = classified("x0", "evit", 60.0, 2.0, rate=0.7) | {"label": "</script><b>x"}
    judged(tmp_path, bad, 120)
    judged(tmp_path, classified("x1", "none", 70.0, 4.0), 140)
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "</script><b>x" not in page and "\\u003c/script\\u003e\\u003cb\\u003ex" in page
