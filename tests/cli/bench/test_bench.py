"""The benchmark command at a size of seconds: it measures every goal and writes what it found. No time is ever judged here."""

import pandas as pd
import pytest
import torch

from tokenprune.cli.bench import authors, fixed, router, sampling, scale, timing
from tokenprune.cli.bench.__main__ import BENCHMARKS, main
from tokenprune.cli.bench.goals import Finding, Setup
from tokenprune.cli.bench.ragged import masks
from tokenprune.engine.prune import prune
from tokenprune.methods.selectors.evo_vit import RunningAttention
from tokenprune.registry import get, names

pytestmark = pytest.mark.system

SIZE = {"embed_dim": 24, "num_heads": 3}
DROPPING = {name for name in names("selector") if get("selector", name).saves_computation}
SHORT = {"pixels": (224, 112), "long": 64, "samples": 50, "lengths": (16, 36, 64), "selectors": ("ats", "tome")}
TINY = Setup(rounds=1, batches=(2,), small="deit_tiny_patch16_224", options=SIZE, **SHORT)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(timing, "LEAST", 0.0)


def test_one_command_measures_every_goal_and_writes_them(tmp_path, capsys):
    assert main(["--out", str(tmp_path)], TINY) == 0
    table = pd.read_csv(tmp_path / "bench.csv")
    goals = {
        "speed-up / MACs ratio", "time / slice oracle", "no selector / timm", "ragged block / uniform", "slice oracle / SViT",
        "preserve / remove", "reactivate / remove", "remove / oracle", "class row, % of its block", "attention memory, sizes of q",
        "distance matrix / ATS sampling", "Cropr / random choice", "Cropr / free choice", "authors' way / ours",
        "published: speed-up / MACs ratio", "published: time / slice oracle",
        scale.TIME, scale.BATCH, scale.MEMORY, scale.GROWTH, scale.HELD,
        "torch.compile: breaks in a pass", "torch.compile: programs", "torch.compile: largest difference from eager",
        "torch.compile: seconds of tracing",
    }  # fmt: skip
    assert set(table["goal"]) == goals
    zero = table["goal"].str.contains("breaks|difference") | table["goal"].isin([scale.GROWTH, scale.HELD])
    assert (table.loc[~zero, "measured"] > 0).all() and table["commit"].nunique(dropna=False) == 1
    efficiency = table[table["goal"] == "speed-up / MACs ratio"]
    assert set(efficiency["case"]) == {f"{name}, batch {batch}" for name in fixed.METHODS for batch in (2,)}
    assert {case.split(",")[0] for case in table.loc[table["goal"] == "published: time / slice oracle", "case"]} == DROPPING
    assert table.loc[table["goal"].str.startswith("published"), "limit"].isna().all()
    programs = table[table["goal"].str.startswith("torch.compile")].set_index(["goal", "case"])["measured"]
    breaks, made = programs["torch.compile: breaks in a pass"], programs["torch.compile: programs"]
    assert breaks.to_dict() == {"ats, evaluation": 1, "ats, training": 1, "tome, evaluation": 0, "tome, training": 0}
    assert made["tome, evaluation"] == made["tome, training"] == 2 and programs["torch.compile: largest difference from eager"].max() < 1e-5
    markdown, said = (tmp_path / "bench.md").read_text(), capsys.readouterr().out
    for text in (markdown, said):
        assert all(goal in text for goal in goals) and "CPU seconds of one thread" in text and "torch" in text


def test_a_part_can_be_chosen_and_its_effort_set(tmp_path):
    main(["ats", "--rounds", "2", "--out", str(tmp_path)], TINY)
    assert pd.read_csv(tmp_path / "bench.csv")["goal"].tolist() == ["distance matrix / ATS sampling"]


def test_the_list_names_every_benchmark(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [b.name for b in BENCHMARKS]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["atss"], "there are fixed, authors"),
        (["--rounds", "0"], "whole number from 1"),
        (["--batches", "1,x"], "'x' is no whole number"),
        (["--lengths", "196,200"], "two or more square numbers"),
        (["--lengths", "196"], "two or more square numbers"),
        (["--selectors", "tome,toem"], "'toem' is no selector"),
    ],
)
def test_bad_arguments_are_refused(arguments, text, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert text in capsys.readouterr().err


def test_a_goal_is_met_by_the_median_in_its_direction():
    value = timing.Spread.of([3.0, 1.0, 2.0])
    assert (value.median, value.low, value.high, value.iqr) == (2.0, 1.5, 2.5, 1.0)
    assert Finding("g", "c", value, 2.0).met and not Finding("g", "c", value, 1.9).met
    assert Finding("g", "c", value, None).met
    assert Finding("g", "c", value, 2.0, at_least=True).met and not Finding("g", "c", value, 2.1, at_least=True).met
    assert timing.ratio([4.0, 6.0], [2.0, 2.0], 0.5) == timing.Spread.of([1.0, 1.5])


def test_short_calls_have_more_rounds_and_run_in_either_order(monkeypatch):
    ran: list[str] = []
    monkeypatch.setattr(timing, "_seconds", lambda call, repeats: (call(), 0.4)[1])
    seconds = timing.interleaved({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, 2, "")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 5, "b": 5}  # 2 rounds of a second are 5 of 0.4 s
    assert "".join(ran) == "aabb" + "abbaabbaab"
    for length, rounds in ((2.0, 2), (0.001, 10)):
        monkeypatch.setattr(timing, "_seconds", lambda call, repeats, length=length: length)
        found = timing.interleaved({"a": lambda: None}, 2, "")["a"]
        assert timing.Spread.of(found).rounds == rounds


def test_an_exponent_is_that_of_the_greatest_lengths():
    lengths = (4, 16, 64, 256)
    found = scale.exponents(lengths, [[99.0, 99.0], *([n**2.0, 3 * n**1.5] for n in lengths[1:])])
    assert (found.low + found.high) / 2 == pytest.approx(1.75) and found.iqr == pytest.approx(0.25)


def test_a_decision_is_timed_with_what_its_hooks_observe(monkeypatch):
    """Evo-ViT's hooks observe the block before; ToMe has none."""
    images, calls = torch.randn(1, 3, 64, 64), []
    observe, decides = RunningAttention.observe, {}
    monkeypatch.setattr(RunningAttention, "observe", lambda self, seen: (calls.append(seen.block), observe(self, seen))[1])
    for name in ("evo_vit", "tome"):
        model = prune(TINY.model(TINY.large, depth=scale.DEPTH, img_size=64), name, schedule=scale.PLAN)
        decides[name] = scale.decision_of(model, images)
    calls.clear()
    with torch.inference_mode():
        decides["tome"]()
        assert calls == []
        decides["evo_vit"]()
    assert calls == [scale.BLOCK - 1]


def test_growth_is_drawn_and_the_steep_ones_are_named(tmp_path):
    main(["scale", "--out", str(tmp_path), "--selectors", "tome,sit"], TINY)
    table = pd.read_csv(tmp_path / "bench.csv")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
    assert set(table["curve"]) == {"attention", "tome", "sit"}
    times = table[table["goal"] == scale.TIME]
    assert sorted(set(times["x"])) == [16, 36, 64] and len(times) == 9
    limit = table.loc[table["goal"] == scale.GROWTH].set_index("curve")
    assert limit["limit"].nunique() == 1 and limit.loc["attention", "met"]


def test_a_slice_oracle_that_keeps_everything_is_the_dense_model():
    vit = TINY.model(TINY.small)
    model, images = prune(vit), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(fixed.sliced(model, model.encode(images).usage, images), vit(images))


def test_a_free_choice_is_that_of_the_first_tokens():
    model, images = router.freely(prune(TINY.model(TINY.small), "random", "remove", router.PLAN).eval()), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        outputs = model.encode(images)
        assert outputs.state.index.tolist() == [list(range(196 - 11 * 16 - 1))] * 2
        torch.testing.assert_close(model(images), fixed.sliced(model, outputs.usage, images))


def test_released_sampling_keeps_what_the_bisection_keeps():
    """At a size where the distance matrix is exact enough, both find the same tokens."""
    from tokenprune.methods.selectors.ats import inverse_transform

    score = torch.rand(3, 20, generator=torch.Generator().manual_seed(2)) + 0.1
    score = score / score.sum(1, keepdim=True)
    assert torch.equal(sampling.by_distances(score, 12), inverse_transform(score, torch.ones(3, 20, dtype=torch.bool), 12))


@pytest.mark.parametrize("name", authors.MODELS)
def test_the_authors_way_gives_the_logits_of_the_engine(name):
    count, side = (1, 80) if name == "ats" else (2, 224)  # see `authors.ats`
    torch.manual_seed(0)
    vit, images = TINY.model(TINY.small, img_size=side), torch.randn(count, 3, side, side)
    with torch.no_grad():
        model = prune(vit, *authors.MODELS[name]).eval().deploy()
        for part in [*(block.attn.qkv for block in vit.blocks), model.selectors]:
            for parameter in part.parameters():
                parameter.mul_(4.0)  # scores that are not flat, so that choices are not ties
        torch.testing.assert_close(authors.way_of(name)(model, images), model(images), atol=1e-5, rtol=1e-5)


def test_every_method_compared_without_training_has_its_authors_way():
    compared = {"tome", "diffrate", "ppt", "pitome", "tofu", "mctf", "atc", "algm", "kmedoids", "representation_shift", "frequency"}
    assert compared <= {name.split()[0].rstrip(",") for name in authors.MODELS}


def test_masks_have_the_mean_that_was_asked_for():
    live = masks(400, 100, 0.5, 0.1)
    counts = live.sum(1).float()
    assert abs(float(counts.mean()) - 50) < 2 and 8 < float(counts.std()) < 12 and counts.min() >= 1
