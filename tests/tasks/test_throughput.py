"""How images a second are taken: in turn, over batches, ratios within a batch, out of memory as a result. The timer is replaced."""

import copy
from statistics import stdev

import pytest
import torch

from tests.helpers.pairings import images, tiny_vit
from tests.tasks.test_classification import CONFIG, PRUNED
from tokenprune import prune
from tokenprune.errors import InvalidConfig
from tokenprune.measure import speed
from tokenprune.measure.throughput import FIELDS, ThroughputPlan, throughput
from tokenprune.registry import get

CPU = torch.device("cpu")


def drawn(size, number):
    return images(size, seed=number)


@pytest.fixture
def model():
    return prune(tiny_vit(), selector="topk", schedule={"name": "explicit", "keep": {1: 5}}).eval()


@pytest.fixture
def timed(monkeypatch):
    """(dense or pruned, batch size) in the order in which they were timed; pruned takes 1, 2, 4 ... seconds, dense 3 times as long."""
    seen: list[tuple[str, int]] = []

    def timer(call):
        call()
        name = "pruned" if call.func.selectors else "dense"
        seen.append((name, len(call.args[0])))
        return 2.0 ** (sum(n == name for n, _ in seen) - 1) * (1 if name == "pruned" else 3)

    monkeypatch.setattr(speed, "_thread_seconds", timer)
    return seen


def test_pruned_and_dense_are_timed_in_turn_and_summed_up_over_batches(timed, model):
    found = throughput(model, drawn, ThroughputPlan(batch_sizes=(1, 4), batches=2, passes=2, warmup=1), CPU)
    assert timed == [("pruned", 1), ("dense", 1)] * 4 + [("pruned", 4), ("dense", 4)] * 4
    first, second = [1 / 1.5, 1 / 6], [4 / 24, 4 / 96]  # images / mean seconds of a batch's two passes: 1 2, 4 8; 16 32, 64 128
    assert found["throughput_batch"] == [1, 4]
    assert found["throughput_mean"] == pytest.approx([sum(first) / 2, sum(second) / 2])
    assert found["throughput_sd"] == pytest.approx([stdev(first), stdev(second)]) and found["throughput_speedup"] == [3, 3]
    assert found["throughput_note"].endswith("2 batches of 2 passes after 1 to warm up, dense and pruned in turn")


def test_the_dense_model_is_the_own_backbone_without_a_drop(model, monkeypatch):
    outputs = {}

    def timer(call):
        outputs["pruned" if call.func.selectors else "dense"] = call()
        return 1.0

    monkeypatch.setattr(speed, "_thread_seconds", timer)
    throughput(model, drawn, ThroughputPlan(batch_sizes=(2,), batches=1), CPU)
    assert torch.equal(outputs["dense"], model.backbone(drawn(2, 0)))
    assert torch.equal(outputs["pruned"], model(drawn(2, 0)))


def test_out_of_memory_is_a_gap_from_that_size_on(timed, model):
    asked = []

    def heavy(size, number):
        asked.append(size)
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return drawn(size, number)

    found = throughput(model, heavy, ThroughputPlan(batch_sizes=(1, 2, 4, 8), batches=1), CPU)
    assert [value is None for value in found["throughput_mean"]] == [False, False, True, True]
    assert all(found[name][2:] == [None, None] for name in FIELDS) and 8 not in asked


def test_a_batch_is_halved_until_it_fits(timed, model):
    def heavy(limit):
        def images(size, number):
            if size > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return drawn(size, number)

        return images

    plan = ThroughputPlan(batch_sizes=(1,), batches=1, best_from=24)
    found = throughput(model, heavy(7), plan, CPU)
    assert found["throughput_batch"] == [1, 6] and found["throughput_mean"][1] > 0
    assert found["throughput_note"].endswith("; of 24 images halved to 6, which fit into memory")
    whole = throughput(model, heavy(100), plan, CPU)
    assert whole["throughput_batch"] == [1, 24] and "halved" not in whole["throughput_note"]
    none = throughput(model, heavy(0), plan, CPU)  # not even the first size fits: no larger one is tried
    assert none["throughput_batch"] == [1] and none["throughput_mean"] == [None]
    assert throughput(model, heavy(0), ThroughputPlan(batch_sizes=(1,), batches=1), CPU)["throughput_mean"] == [None]


def test_other_errors_are_not_swallowed(timed, model):
    def broken(size, number):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        throughput(model, broken, ThroughputPlan(), CPU)


def test_no_speed_is_claimed_where_nothing_is_dropped(timed, model, monkeypatch):
    def nothing(found, words):
        return words in found["throughput_note"] and all(found[name] == [None, None] for name in FIELDS)

    model.execution = "masked"
    assert nothing(throughput(model, drawn, ThroughputPlan(), CPU), "masked execution is not timed")
    model.execution = "auto"
    monkeypatch.setattr(type(model.selectors["1"]), "saves_computation", False)
    assert nothing(throughput(model, drawn, ThroughputPlan(), CPU), "switches off is computed all the same") and timed == []


def test_precision_is_that_of_the_plan(model, monkeypatch):
    kinds = set()

    def timer(call):
        kinds.add(call().dtype)
        return 1.0

    monkeypatch.setattr(speed, "_thread_seconds", timer)
    note = throughput(model, drawn, ThroughputPlan(batch_sizes=(1,), batches=1, dtype="bfloat16"), CPU)["throughput_note"]
    assert kinds == {torch.bfloat16} and "bfloat16" in note


def test_largest_is_the_last_size_alone():
    assert ThroughputPlan(batch_sizes=(1, 8, 64), largest=True).batch_sizes == (64,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_sizes": (4, 2)}, r"batch_sizes: got \(4, 2\); allowed: ascending whole numbers"),
        ({"batch_sizes": ()}, "ascending whole numbers"),
        ({"batch_sizes": (0, 1)}, "from 1 on"),
        ({"passes": 0}, r"batches and passes: got \(30, 0\); allowed: 1 and more"),
        ({"warmup": -1}, r"warmup and best_from: got \(-1, 0\); allowed: 0 and more"),
        ({"dtype": "int8"}, "dtype: got 'int8'; allowed: float32, bfloat16, float16"),
    ],
)
def test_plans_are_checked(options, words):
    with pytest.raises(InvalidConfig, match=words):
        ThroughputPlan(**options)


def test_the_classification_task_times_random_images_of_the_validation_split(timed):
    cfg = {**copy.deepcopy(CONFIG), **PRUNED}
    cfg["task"] = {**cfg["task"], "throughput": {"batch_sizes": [1, 12], "batches": 2}}
    task = get("task", "classification")()
    found = task.throughput(task.build_model(cfg), cfg)
    assert [size for _, size in timed] == [1] * 4 + [12] * 4  # more than the ten images of the split
    assert found["throughput_batch"] == [1, 12] and all(mean > 0 for mean in found["throughput_mean"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: CUDA events and graphs")
@pytest.mark.parametrize("selector", ["topk", "svit"])
def test_on_a_gpu_graphs_change_no_output(selector):
    from tokenprune.measure.throughput import captured

    model = prune(tiny_vit(), selector=selector).cuda().eval()
    batch = images(2).cuda()
    with torch.inference_mode():
        replay = captured(model, batch)
        if replay is not None:
            replay(batch)
        plan, device = ThroughputPlan(graphs=True, batches=2), torch.device("cuda")
        found = throughput(model, lambda size, number: drawn(size, number).cuda(), plan, device)
    assert all(mean > 0 for mean in found["throughput_mean"]) and "CUDA events" in found["throughput_note"]
