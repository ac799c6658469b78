"""Several processes of one run: two on the CPU do what one does, fail together, and leave one row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import two_processes as two
from tests.helpers.fakes import cli  # noqa: F401
from tokenprune.errors import InvalidConfig, PeerFailed
from tokenprune.methods.losses.ratio import RatioLoss
from tokenprune.tasks import batching
from tokenprune.tasks.batching import BatchPlan, batches_from
from tokenprune.training.loop import fit
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils import console, distributed
from tokenprune.utils.locks import locked

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
ONE_NOTE = "trained by 2 processes"


def torchrun(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What a single process comes to, and a run that it began."""
    return two.trained(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What the two processes came to, and their folder."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(two.Killed):
        fit(two.Net(), two.batches, two.fit_loss, two.LONGER, folder / "begun", before_step=two.kill_at(3))
    ended = torchrun("-m", "tests.helpers.two_processes", folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return *(torch.load(folder / f"process{i}.pt") for i in (0, 1)), folder


def same(a, b, tolerance=1e-6):
    assert a.keys() == b.keys()
    for name in a:
        if a[name] is None or b[name] is None:
            assert a[name] is b[name], name
        else:
            torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda words, name=name: f"{name}: {words}")


def test_two_processes_step_as_one_with_the_whole_batch(one, pair):
    for process in pair[:2]:
        same(process["trained"]["net"], one["net"])


def test_a_pruned_vit_gets_the_same_gradients_and_none_where_one_process_has_none(one, pair):
    """Cropr's router has no gradient without its auxiliary loss; the losses that are reported are means over the processes."""
    assert any(g is None for g in one["vit"].values()) and sum(g is not None for g in one["vit"].values()) > 30
    for process in pair[:2]:
        same(process["trained"]["vit"], one["vit"])
        assert process["trained"]["losses"] == pytest.approx(one["losses"], abs=1e-5)


def test_elastic_training_draws_alike_in_two_processes_and_gets_the_gradients_of_one(one, pair):
    assert len(one["draws"]) == 2 and any(g is not None for g in one["elastic"].values())
    for process in pair[:2]:
        assert process["trained"]["draws"] == one["draws"]
        same(process["trained"]["elastic"], one["elastic"])


def test_auxiliary_heads_get_the_same_gradients_in_two_processes(one, pair):
    assert all(g is not None for name, g in one["heads"].items() if "selectors." in name) and one["auxiliary"] > 0
    for process in pair[:2]:
        same(process["trained"]["heads"], one["heads"])
        assert process["trained"]["auxiliary"] == pytest.approx(one["auxiliary"], abs=1e-5)


@pytest.mark.parametrize("name", ["global", "image"])
def test_the_ratio_loss_and_its_gradient_are_those_of_the_whole_batch(one, pair, name):
    for process in pair[:2]:
        value, gradient = process["trained"]["ratios"][name]
        assert value == pytest.approx(one["ratios"][name][0], rel=1e-6)
        torch.testing.assert_close(gradient, one["ratios"][name][1], rtol=1e-5, atol=1e-7)


def test_the_ratio_loss_per_device_is_the_mean_over_the_slices(one, pair):
    gates, loss = two.Gates(), two.ratio_loss()
    mean = sum(loss(gates, part)["loss_ratio"] for part in next(two.batches(0)).chunk(2)) / 2
    mean.backward()
    for process in pair[:2]:
        value, gradient = process["trained"]["ratios"]["per_device"]
        assert value == pytest.approx(mean.item(), rel=1e-6) and abs(value - one["ratios"]["global"][0]) > 1e-4
        torch.testing.assert_close(gradient, gates.weights.grad, rtol=1e-5, atol=1e-7)


def test_a_killed_pair_ends_with_the_same_bits(pair):
    """Each process draws its own noise, and finds it again."""
    for process in pair[:2]:
        whole, again = process["resumed"]["whole"], process["resumed"]["again"]
        assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_a_checkpoint_goes_from_one_process_to_two_and_back(pair, tmp_path):
    whole, back = two.Net(), two.Net()
    fit(whole, two.batches, two.fit_loss, two.LONGER, tmp_path)
    for process in pair[:2]:
        same(process["resumed"]["begun"], whole.state_dict())
    started = []
    fit(back, two.batches, two.fit_loss, two.LONGER, pair[2] / "left", before_step=lambda model, i: started.append(i))
    assert started == [2, 3]
    same(back.state_dict(), whole.state_dict())


def test_batch_norm_on_cpus_is_noted(pair):
    assert pair[0]["resumed"]["notes"] == (ONE_NOTE, "batch norms took each process's own images: SyncBatchNorm needs CUDA")


def test_a_failure_in_one_process_ends_the_others(pair):
    main, other = (process["failures"] for process in pair[:2])
    assert other["forward"] == ("KeyError", "'no such token'") and other["backward"][0] == "ArithmeticError"
    kind, words = main["forward"]
    assert kind == "PeerFailed" and words.startswith("process 1: KeyError: 'no such token' (helpers/two_processes.py:")
    assert main["backward"][0] == "PeerFailed" and "process 1: ArithmeticError: no gradient" in main["backward"][1]
    assert main["nan"][0] == other["nan"][0] == "Diverged" and main["nan"] == other["nan"]


def test_a_row_that_fails_in_one_process_is_one_row_and_the_next_is_made(pair):
    main, other, folder = pair
    assert main["rows"] == other["rows"]
    statuses = {method: status for method, status, _ in main["rows"]}
    assert statuses == {"random": "failed", "variance": "diverged", "evit": "ok"}
    assert main["rows"][0][2].startswith("process 1: KeyError: 'a bug somewhere' (helpers/fakes.py:")
    rows = [json.loads(path.read_text()) for path in folder.glob("results/rows/*/result.json")]
    assert sorted(row["status"] for row in rows) == ["diverged", "failed", "ok"]
    failed = next(folder / "results/rows" / row["key"] for row in rows if row["status"] == "failed")
    assert "in build_model" in (failed / "error.txt").read_text()


@pytest.mark.parametrize(
    "sweep", [pytest.param(False, id="classification"), pytest.param(True, id="a sweep of detection", marks=pytest.mark.slow)]
)
def test_torchrun_makes_one_row_and_a_single_process_reads_it(cli, sweep):  # noqa: F811
    """The parts of IA-RED2 learn by turns: which parameters get a gradient changes with its phases, one an iteration here."""
    settings = ["method=ia_red2", "scale=smoke", "task=classification", "init=scratch", f"results_dir={cli.folder}/results"]
    if sweep:
        pytest.importorskip("detectron2", reason="Detectron2 is not installed (python -m tokenprune.install_detectron2)")
        settings = ["-m", "method=svit", "scale=smoke", "task=detection", *settings[3:]]
    ended = torchrun("-m", "tokenprune.run", *settings)
    assert ended.returncode == 0 and "warning" not in ended.stderr.lower(), ended.stderr[-3000:]
    (row,) = cli.rows()
    assert row["status"] == "ok" and ONE_NOTE in row["notes"]
    said = ended.stdout.splitlines()
    assert [line for line in said if line.startswith("running ")] == said[:1]
    code, out, err = cli(*settings)
    of_the_age, *again = out.splitlines()
    assert (code, err) == (0, "") and again == said[1:]
    assert "made 0 minutes ago and read from disk" in of_the_age
    assert sorted(p.name for p in (cli.folder / "results").iterdir()) == (["rows", "tables"] if sweep else ["rows"])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 7))
def test_the_processes_slices_make_up_the_batch(processes, share, start):
    batch = processes * share

    def first(number):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batching, "world", lambda: processes)
            patch.setattr(batching, "rank", lambda: number)
            return next(batches_from(BatchPlan(20, batch, 0), lambda index, place: (index, place), list, start))

    whole = next(batches_from(BatchPlan(20, batch, 0), lambda index, place: (index, place), list, start))
    assert [sample for number in range(processes) for sample in first(number)] == whole and len(whole) == batch


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    with pytest.raises(InvalidConfig, match="training.batch_size is 4, .* each of 3 processes .* multiple of 3"):
        TrainingConfig(iterations=1, batch_size=4)
    assert TrainingConfig(iterations=1, batch_size=6).batch_size == 6


def test_a_scope_that_is_none_is_refused():
    with pytest.raises(InvalidConfig, match="losses.ratio.scope is 'node', allowed are global and per_device"):
        RatioLoss(scope="node")


def test_one_process_makes_no_group(monkeypatch):
    for name in distributed._SET_BY_TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as a job of a cluster may have it, without the rest
    with distributed.processes(), distributed.training_group():
        assert not torch.distributed.is_initialized() and distributed.group() is None
        assert (distributed.rank(), distributed.world(), distributed.gather("x")) == (0, 1, ["x"])
        values = [torch.ones((), requires_grad=True)]
        assert distributed.average(values)[0] is values[0]
    with pytest.raises(KeyError), distributed.together():
        raise KeyError


def test_more_processes_than_devices_are_refused(monkeypatch):
    for name in distributed._SET_BY_TORCHRUN:
        monkeypatch.setenv(name, "4" if name == "WORLD_SIZE" else "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InvalidConfig, match="process 2 where there are 2 CUDA devices; use --nproc_per_node=2"), distributed.processes():
        pass


def test_only_the_main_process_prints_locks_and_has_an_exit_status(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    console.say("a"), console.warn("b"), console.fail("c")
    assert capsys.readouterr() == ("", "")
    with locked(tmp_path / "folder" / "lock", "row"):
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as ended:
        distributed.leave(2)
    assert ended.value.code == 0


def test_what_a_failed_process_tells():
    error = PeerFailed("process 1: it is late", 1, "oom", "Traceback")
    assert (str(error), error.status, error.trace) == ("process 1: it is late", "oom", "Traceback")
