"""The command that checks and measures a GPU, on the CPU: every part at the size of a test, and what becomes of time, errors and files."""

import dataclasses
import re
from html import unescape
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from tokenprune.cli.gpu import agreement, cases, machine, page, runner, throughput, training
from tokenprune.cli.gpu.__main__ import PARTS, main, measure
from tokenprune.cli.gpu.cases import Case, Part, Unsupported, attempted, tiny
from tokenprune.cli.gpu.runner import Clock
from tokenprune.errors import InvalidSchedule, ResultSchemaError
from tokenprune.registry import get, names
from tokenprune.training.settings import TrainingConfig

pytestmark = pytest.mark.system

FACTS = {
    "device": "cpu",
    "driver": "none",
    "torch": "1",
    "timm": "1",
    "python": "3",
    "tokenprune": "0",
    "commit": "abc",
    "dirty": False,
    "made": "",
}
CPU = torch.device("cpu")


def part_of(*made, name="part", share=1.0):
    return Part(name, "Title", "Says what.", lambda setup: made, share)


def good(value=1.0):
    return lambda: [{"value": value}]


def raising(error):
    def run():
        raise error

    return run


def test_every_part_runs_on_the_cpu_and_its_page_holds_everything(tmp_path, capsys):
    assert main(["--tiny", "--out", str(tmp_path), "--minutes", "30"]) == 0
    rows = pd.read_csv(tmp_path / "gpu.csv")
    assert set(rows["part"]) == {part.name for part in PARTS}
    assert set(rows["status"]) <= {"ok", "unsupported"}
    unsupported = rows.loc[rows["status"] == "unsupported", "reason"]
    assert unsupported.str.contains("CUDA|varlen_attn").all()
    assert rows[list(FACTS)].drop(columns="driver").notna().all(axis=None) and rows["commit"].nunique() == 1
    assert rows.loc[rows["part"] == "agreement", "difference"].notna().all()
    trained = rows[rows["part"] == "training"]
    assert set(trained["task"]) == {"classification", "segmentation", "detection"} and (trained["steps"] == 3).all()
    timed = rows[(rows["part"] == "throughput") & (rows["status"] == "ok")]
    assert (timed["images_per_second"] > 0).all() and (timed["memory_mib"] > 0).all() and (timed["macs_ratio"] > 0).all()
    assert timed["efficiency"].tolist() == pytest.approx((timed["speedup"] / timed["macs_ratio"]).tolist())
    html, text = unescape((tmp_path / "gpu.html").read_text()), (tmp_path / "gpu.md").read_text()
    assert "<script" not in html and 'src="data:image/png' in html and not re.search(r"(src=|href=|url\()[\"']?http", html)
    assert all(part.title in html and part.title in text for part in PARTS)
    assert "Not finished" not in html
    capsys.readouterr()
    assert main(["--tiny", "--out", str(tmp_path)]) == 0
    assert "read from disk" in capsys.readouterr().out and pd.read_csv(tmp_path / "gpu.csv")["made"].equals(rows["made"])


def test_without_a_gpu_there_is_one_clear_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no CUDA device is at hand") and "--tiny" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_list_names_every_part(capsys):
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [part.name for part in PARTS]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["speed"], "there are agreement"),
        (["--minutes", "0"], "above 0"),
        (["--minutes", "x"], "above 0"),
        (["--minutes", "nan"], "above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, text, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (Unsupported("no"), "unsupported"),
        (NotImplementedError("no"), "unsupported"),
        (RuntimeError("\"softmax\" not implemented for 'Half'"), "unsupported"),
        (InvalidSchedule("no"), "invalid"),
        (RuntimeError("an illegal memory access was encountered"), "failed"),
        (ValueError("no kernel"), "failed"),
    ],
)
def test_an_error_is_a_row_with_a_status(error, status):
    (row,) = attempted(Case("name", raising(error)))
    assert (row["case"], row["status"]) == ("name", status) and row["reason"]


def test_a_case_that_was_measured_is_not_measured_again_and_one_that_failed_is(tmp_path):
    calls = []

    def counted(name, error=None):
        def run():
            calls.append(name)
            if error:
                raise error
            return [{"value": 1.0}]

        return Case(name, run)

    made = (counted("a"), counted("b", RuntimeError("broken")), dataclasses.replace(counted("c"), needs=1e9))
    part = part_of(*made)
    assert runner.run([part], tiny(), tmp_path, Clock(60), FACTS) == [part]
    assert calls == ["a", "b", "b"]  # a second turn, with the time that was left, tries once more what failed
    assert runner.rows_of(part, tmp_path)["status"].tolist() == ["ok", "failed"] and not runner.finished(part, tmp_path)
    part = part_of(*made[:2], counted("c"))
    assert runner.run([part], tiny(), tmp_path, Clock(60), FACTS) == []
    assert calls == ["a", "b", "b", "b", "c"]
    assert runner.run([part], tiny(), tmp_path, Clock(60), FACTS) == [] and len(calls) == 5
    table = pd.read_csv(tmp_path / "part.csv")
    assert table["case"].tolist() == ["a", "b", "c"] and set(FACTS) <= set(table) and not (tmp_path / "part.partial.csv").exists()


def test_no_case_begins_when_the_time_is_over(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])

    def slow():
        now[0] += 10
        return [{"value": 1.0}]

    first, second = part_of(*(Case(str(n), slow) for n in range(5)), name="first", share=0.25), part_of(Case("x", slow), name="second")
    left = runner.run([first, second], tiny(), tmp_path, Clock(45), FACTS)
    assert left == [first] and runner.finished(second, tmp_path)  # two cases in its share of 11 s, then the other part, then what was left
    assert len(runner.rows_of(first, tmp_path)) == 4


def test_rows_of_another_machine_share_no_folder(tmp_path):
    part = part_of(Case("a", good()))
    runner.run([part], tiny(), tmp_path, Clock(60), FACTS)
    with pytest.raises(ResultSchemaError, match="device cpu, this machine has H200.*--out"):
        runner.run([part], tiny(), tmp_path, Clock(60), {**FACTS, "device": "H200"})


def test_a_row_at_fault_is_said_and_sets_the_exit_status(tmp_path, capsys):
    part = part_of(Case("a", lambda: [{"status": "differs", "reason": "above its limit"}]))
    assert measure([part], tiny(), tmp_path, 60) == 3
    assert "part: a: differs: above its limit" in capsys.readouterr().err


def test_the_page_of_a_run_that_was_stopped_names_what_waits(tmp_path):
    page.write(PARTS, tmp_path, FACTS)
    html, text = unescape((tmp_path / "gpu.html").read_text()), (tmp_path / "gpu.md").read_text()
    assert all(part.title in html and part.title in text for part in PARTS) and "Not finished" in html


def test_agreement_takes_every_selector_and_treatment():
    pairs = agreement.pairings()
    assert {selector for selector, _ in pairs} == set(names("selector"))
    assert {treatment for _, treatment in pairs} == {name for name in names("treatment") if name != "none"}
    assert ("evit", "reactivate") not in pairs


def test_a_device_that_computes_something_else_differs(monkeypatch):
    passed = agreement._passed

    def wrong(model, execution, device, dtype, images, decided):
        found = passed(model, execution, device, dtype, images, decided)
        return found if execution == "masked" else tuple(value + 1e-3 for value in found)

    monkeypatch.setattr(agreement, "_passed", wrong)
    rows = [row for row in agreement.compared("topk", "remove", CPU) if row["dtype"] == "float32"]
    assert {row["execution"]: row["status"] for row in rows} == {"masked": "ok", "gathered": "differs", "packed": "differs"}
    nothing = torch.full((2,), float("nan"))
    assert agreement.worst((nothing,), (torch.zeros(2),)) == float("inf")


def test_half_precision_follows_the_decisions_of_the_cpu():
    """Without that a token of nearly equal score would be another one, and its row would be wholly different."""
    decided = {}
    model, images = agreement.small("topk", "preserve"), agreement.batch()
    first = agreement._passed(model, "masked", CPU, torch.float32, images, decided)
    assert set(decided) == {1, 2, 4} and all(kept.dtype == torch.bool and kept.shape == (8, 64) for kept in decided.values())
    second = agreement._passed(model, "gathered", CPU, torch.float32, images, decided)
    assert agreement.worst(second, first) < 1e-5


def test_speed_is_measured_of_every_method_that_saves_computation_those_of_the_papers_first():
    every = throughput.methods(cases.Setup(CPU))
    assert set(every) == {name for name in names("selector") if get("selector", name).saves_computation}
    assert tuple(every[: len(throughput.FIRST)]) == throughput.FIRST


def test_facts_name_device_driver_versions_and_commit(monkeypatch):
    found = machine.facts(CPU)
    assert set(found) == set(FACTS) and found["torch"] == torch.__version__ and found["driver"] == "none"


def test_a_cpu_trains_in_bfloat16_on_one_repeated_batch():
    """Each task's losses run so in the test of all parts above."""
    seen = []

    class Squares:
        def build_model(self, run):
            return torch.nn.Linear(3, 1)

        def begin(self, model):
            pass

        def train_batches(self, run, start):
            yield torch.ones(2, 3)

        def losses(self, model, batch):
            out = model(batch)
            seen.append((out.dtype, batch))
            return {"loss": (out.float() - 5).square().mean()}

    recipe = TrainingConfig(iterations=4, amp="bf16", lr=0.1)
    losses = training.losses_of(SimpleNamespace(task_kind=Squares, seed=0, recipe=recipe, task_name="squares"), 4, CPU)
    assert [dtype for dtype, _ in seen] == [torch.bfloat16] * 4 and all(batch is seen[0][1] for _, batch in seen)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("after", "status"), [([3.0] * 25 + [2.0] * 25, "ok"), ([2.0] * 25 + [3.0] * 25, "diverged"), ([float("inf")] * 50, "diverged")]
)
def test_losses_must_be_finite_and_fall(monkeypatch, after, status):
    monkeypatch.setattr(training, "losses_of", lambda run, steps, device: after)
    (row,) = training.trained("classification", "dynamicvit", 50, CPU)
    assert row["status"] == status and bool(row["reason"]) == (status != "ok")
