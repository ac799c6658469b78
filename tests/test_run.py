"""One run and small sweeps through the command line, with a task that takes milliseconds."""

import json

import pytest
import torch

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.errors import is_out_of_memory
from tokenprune.measure.resamples import Resampled
from tokenprune.runs.row import name_of, treatment_of
from tokenprune.utils.checkpoints import read_metadata, read_weights

pytestmark = pytest.mark.system


def test_a_run_makes_its_dense_model_first_and_a_row(cli, fake):  # noqa: F811
    code, out, err = cli(*TINY, "method=evit", "treatment=preserve")
    assert (code, err) == (0, "") and fake.built == ["none", "evit"]
    rows = {r["method"]: r for r in cli.rows()}
    assert rows["evit"]["treatment"] == "preserve" and rows["evit"]["status"] == "ok"
    assert rows["evit"]["notes"] == [f"starts from the dense run {rows['dense']['key']}"]
    assert "EViT, preserve: box AP 40.0 ± 0.8" in out
    assert sorted(p.name for p in cli.folder.iterdir()) == ["results"]  # no outputs/, no multirun/, no log files


def test_the_second_run_reads_the_first(cli, fake):  # noqa: F811
    cli(*TINY, "method=evit")
    fake.built.clear()
    code, out, _ = cli(*TINY, "method=evit")
    assert code == 0 and fake.built == [] and "box AP 40.0" in out


def test_rows_of_one_key_keep_their_own_names(cli, fake):  # noqa: F811
    cli(*TINY, "method=evit")
    _, out, _ = cli(*TINY, "method=topk", "selector=evit", "schedule.of=current", "schedule.rounding=ceil")
    assert fake.built == ["none", "evit"] and "\nAttention top-k, remove" in out


def test_weights_are_kept_and_the_loop_state_is_not(cli, fake):  # noqa: F811
    cli(*TINY)
    (folder,) = (cli.folder / "results" / "rows").iterdir()
    assert {p.name for p in folder.iterdir()} == {"lock", "losses.csv", "model.safetensors", "result.json"}
    assert read_metadata(folder / "model.safetensors")["key"] == folder.name


def test_what_was_found_for_the_pictures_lies_beside_the_row(cli, fake, monkeypatch):  # noqa: F811
    resampled = Resampled({"ap_box": torch.tensor([1.0, 2.0]).double()}, 4, 7)
    monkeypatch.setattr(fake, "resampled", resampled)
    monkeypatch.setattr(fake, "per_image", {"predicted": torch.tensor([1])})
    cli(*TINY)
    (folder,) = (cli.folder / "results" / "rows").iterdir()
    stored = Resampled.of_tensors(read_weights(folder / "resampled.safetensors"))
    assert stored.values["ap_box"].tolist() == [1.0, 2.0] and (stored.pictures, stored.draws) == (4, 7)
    assert read_weights(folder / "per_image.safetensors")["predicted"].tolist() == [1]


def test_rows_start_from_the_weights_of_the_dense_run(cli, fake):  # noqa: F811
    """With a learning rate of 0 a row ends where the dense model ended."""
    cli(*TINY, "method=dynamicvit", "training.lr=0", "training.weight_decay=0")
    weights = {r["method"]: read_weights(cli.folder / "results" / "rows" / r["key"] / "model.safetensors") for r in cli.rows()}
    shared = [k for k in weights["dense"] if ".backbone." in k]
    assert shared and all((weights["dense"][k] == weights["dynamicvit"][k]).all() for k in shared)


@pytest.mark.parametrize("cls", ("learned", "random", "mean"))
def test_every_class_token_starts_from_the_same_dense_run(cli, fake, cls):  # noqa: F811
    code, _, err = cli(*TINY, "method=evit", f"cls={cls}")
    assert (code, err) == (0, "")
    assert {r["method"]: r["cls"] for r in cli.rows()} == {"dense": "learned", "evit": cls}


def test_a_dense_model_without_class_token_serves_a_random_one(cli, fake):  # noqa: F811
    code, _, err = cli(*TINY, "method=evit", "cls=random", "backbone.class_token=false")
    assert (code, err) == (0, "")
    assert {r["method"]: r["cls"] for r in cli.rows()} == {"dense": "none", "evit": "random"}


def test_pretraining_then_dense_then_the_row(cli, fake):  # noqa: F811
    """The chain that makes the demo's weights, and their export in half precision."""
    sizes = [f"pretrained.{name}" for name in ("data.train_size=4", "data.val_size=4", "training.iterations=1", "task.speed_images=1")]
    tiny = [*TINY, "backbone.img_size=64"]
    code, out, err = cli(*tiny, *sizes, "dense.init=pretrained", "export_weights=dense.safetensors")
    assert (code, err) == (0, "")
    assert {r["task"] for r in cli.rows()} == {"classification", "fake"}
    weights = read_weights(cli.folder / "dense.safetensors")
    assert {str(t.dtype) for t in weights.values()} == {"torch.float16"} and "wrote dense.safetensors" in out
    code, _, err = cli(*tiny, "method=evit", "init_weights=dense.safetensors")
    assert (code, err) == (0, "") and fake.built.count("none") == 1


def test_a_missing_export_is_made_again(cli, fake):  # noqa: F811
    cli(*TINY)
    assert cli(*TINY, "export_weights=dense.safetensors")[0] == 0
    assert (cli.folder / "dense.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["method=evit", "selector=evti"], "unknown selector 'evti'. Did you mean 'evit'? Available: a_vit, adavit,"),
        (["method=evitt"], "unknown method 'evitt'. Did you mean 'evit'?"),
        (["+experiment=table2_preserv"], "unknown experiment 'table2_preserv'. Did you mean 'table2_preserve'?"),
        (["method=evit", "schedule.keep_rate=0"], "schedule.keep_rate is 0; allowed: 0 < keep_rate <= 1"),
        (["method=evit", "schedule.keep_rate=abc"], "schedule.keep_rate is 'abc', which is no number"),
        (["method=evit", "schedule.blocks=[3,6,19]"], "block 19 is outside the model"),
        (["method=evit", "schedule.keep_rte=0.5"], "schedule 'stages' has no option keep_rte. Did you mean 'keep_rate'?"),
        (["method=evit", "treatment=reactivate"], "use preserve"),
        (["seed=x"], "could not be converted to Integer"),
        (["training.lr=["], ""),
        (["data=coco"], "data.root is not set"),
        (["method=random"], "KeyError: 'a bug somewhere'"),
        (["method=variance"], "diverged: loss is not finite at iteration 0"),
        (["method=topk"], "oom: OutOfMemoryError"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_mistake_is_one_line_and_exit_status_2(cli, fake, arguments, words):  # noqa: F811
    code, out, err = cli(*TINY, *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert words in err and "Traceback" not in out + err


def test_a_run_makes_the_reports_it_is_asked_for(cli, fake):  # noqa: F811
    code, out, _ = cli(*TINY, "method=evit", "+reports.taxonomy={}")
    made = sorted(p.name for p in cli.tables().iterdir())
    assert code == 0 and "box AP 40.0" in out and made == ["sweep.json", "taxonomy.csv", "taxonomy.md", "taxonomy.tex"]
    code, out, err = cli(*TINY, "method=evit", "+reports.agreement.images=2")
    assert code == 3 and "box AP 40.0" in out and err.startswith("error: report 'agreement': agreement: it compares two")


def test_validate_only_runs_nothing(cli, fake):  # noqa: F811
    code, out, _ = cli("method=evit", "scale=paper", "validate_only=true")
    assert code == 0 and "4200 positions: block 3 keep 2940" in out
    assert list(cli.folder.iterdir()) == []


def test_multirun_over_keep_rates_and_over_selectors(cli, fake):  # noqa: F811
    code, out, _ = cli("-m", *TINY, "method=dense,evit", "schedule.keep_rate=0.5,0.75")
    assert code == 0 and out.count("EViT   | remove") == 2 and out.count("Dense  | none") == 1  # the same row at both rates
    cli("-m", *TINY, "selector=evit", "treatment=remove,preserve")
    table = (cli.tables() / "table.csv").read_text().splitlines()
    assert len(table) == 3 and sorted(p.name for p in cli.folder.iterdir()) == ["results"]


def test_environment_is_complete_and_names_no_path(cli, fake):  # noqa: F811
    cli(*TINY)
    (row,) = cli.rows()
    assert row["environment"]["threads"] >= 1 and str(cli.folder) not in json.dumps(row)


def test_names():
    config = {"label": "Evo-ViT", "treatment": {"name": "reactivate"}, "treatment_labels": {"reactivate": "preserve"}, "seed": 1}
    config |= {"method": "evo_vit", "schedule": {"keep_rate": 0.7}, "task": {"name": "x"}}
    assert treatment_of(config) == "preserve" and name_of(config) == "Evo-ViT preserve 0.7 (x, seed 1)"
    assert treatment_of({**config, "treatment": {"name": "remove"}}) == "remove"


@pytest.mark.parametrize(
    "error, out",
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, out):
    assert is_out_of_memory(error) is out


def test_a_row_that_is_read_says_so_and_fresh_makes_it_again(cli, fake):  # noqa: F811
    cli(*TINY, "method=evit")
    made = len(fake.built)
    code, out, _ = cli(*TINY, "method=evit")
    assert code == 0 and "made 0 minutes ago and read from disk" in out and len(fake.built) == made
    code, out, _ = cli(*TINY, "method=evit", "--fresh")
    assert code == 0 and "read from disk" not in out and len(fake.built) == made + 1


def test_a_choice_that_a_selector_alone_cannot_have_is_a_status_of_its_row(cli, fake):  # noqa: F811
    code, _, err = cli("-m", *TINY, "selector=dynamicvit,none", "+losses.ratio.weight=9")
    assert code == 3 and err.count("error: ") == 1 and "with method=dynamicvit, which the selector implies: Could not append" in err
    assert [row["status"] for row in cli.rows()] == ["ok"]
