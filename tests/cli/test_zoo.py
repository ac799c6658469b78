"""`tokenprune zoo`: the list, a verification from a file to a verdict, conversions, and one clear error for each wrong file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.releases import SIZES, mae_state, saved
from tokenprune.cli import zoo
from tokenprune.runs import nodes, zoo_rows
from tokenprune.zoo import catalog

ENTRY = catalog.Entry(
    name="fake-mae", method="tome", paper="A paper, 2022", code="https://example.org", model="ViT of 64 channels", task="classification",
    layout="mae", file="mae.pth", family="fake", given={"r": 3}, needs="embedded shapes", printed_in="Table 1", printed={"top1": 20.0},
    run={
        "scale": "smoke", "data": "shapes", "data.side": 48, "data.val_size": 8, "method": "tome",
        "backbone": "vit_smoke", "backbone.pool": "avg",
        "schedule": "per_block", "schedule.remove": 3, "schedule.start": 0, "schedule.align": False, "treatment.proportional": False,
        **{f"backbone.{name}": value for name, value in SIZES.items()},
    },
)  # fmt: skip


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Run the command with one entry in the zoo; return (exit status, output, errors)."""
    monkeypatch.setattr(catalog, "entries", lambda: (ENTRY, replace(ENTRY, name="fake-other", refused="no model of it is built")))
    for module in (zoo, zoo_rows):
        monkeypatch.setattr(module, "entries", catalog.entries)
    nodes.nodes.cache_clear()
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = zoo.main([str(word) for word in words])
        out = capsys.readouterr()
        return code, out.out, out.err

    yield run
    nodes.nodes.cache_clear()


@pytest.fixture
def file(tmp_path):
    return saved(tmp_path / "mae.pth", mae_state(classes_of_shapes()))


def classes_of_shapes():
    from tokenprune.data.shapes.shapes import SHAPES_CLASSES

    return len(SHAPES_CLASSES)


def test_the_list_has_every_file_with_its_printed_number(command):
    code, out, _ = command("list")
    assert code == 0 and "fake-mae" in out and "top1 20.0" in out and "refused: no model of it is built" in out
    assert "fake-other" not in command("list", "fake-mae")[1]
    assert command("list", "nothing")[0] == 1


def test_verify_ends_with_a_row_a_verdict_and_values_to_contribute(command, file):
    code, out, err = command("verify", "fake-mae", "--weights", file)
    assert "top1:" in out and "printed 20.0 (Table 1)" in out and "result: " in out and err == ""
    assert f"sha256: {zoo_sha(file)}" in out
    assert code == (0 if "within the last digit" in out else 3)
    again = command("verify", "fake-mae", "--weights", file)[1]
    assert "read from disk" in again


def zoo_sha(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_settings_in_which_the_run_differs_from_the_file_are_told(command, file):
    err = command("verify", "fake-mae", "--weights", file, "schedule.remove=2")[2]
    assert "schedule.remove is 2, the file's is 3" in err


def test_settings_that_were_given_reach_the_run(command, file):
    _, out, err = command("verify", "fake-mae", "--weights", file, "--set", "r=2")
    assert err == "" and "To contribute" in out
    row = json.loads(next(Path().glob("results/rows/*/result.json")).read_text())
    assert row["config"]["schedule"]["remove"] == 2


@pytest.mark.parametrize(
    "name, change, told",
    [
        ("fake-mae", lambda state: {"score_predictor.0.in_conv.0.weight": torch.ones(2)}, "layout"),
        ("fake-mae", lambda state: {k: v for k, v in state.items() if not k.startswith("head.")}, "head"),
        ("fake-mae", lambda state: {k: v for k, v in state.items() if "blocks.2" not in k}, "missing"),
        ("fake-other", lambda state: state, "no model of it is built"),
        ("fake-may", lambda state: state, "Did you mean 'fake-mae'"),
    ],
)
def test_a_wrong_file_ends_in_one_clear_error(command, tmp_path, name, change, told):
    path = saved(tmp_path / "x.pth", change(mae_state(classes_of_shapes())))
    code, _, err = command("verify", name, "--weights", path)
    assert code == 1 and told in err and len(err.strip().splitlines()) == 1


def test_another_number_of_classes_is_refused_before_anything_runs(command, tmp_path):
    path = saved(tmp_path / "x.pth", mae_state(classes_of_shapes() + 1))
    code, out, err = command("verify", "fake-mae", "--weights", path)
    assert code == 1 and "classes" in err and "running" not in out


def test_a_damaged_file_is_one_line(command, file):
    file.write_bytes(file.read_bytes()[:5000])
    code, _, err = command("verify", "fake-mae", "--weights", file)
    assert code == 1 and "damaged" in err and len(err.strip().splitlines()) == 1


def test_convert_writes_a_file_that_loads_in_one_line(command, file, tmp_path):
    import tokenprune

    code, out, _ = command("convert", file, "--to", "tokenprune", "--out", tmp_path / "new.safetensors", "--entry", "fake-mae")
    assert code == 0 and "tokenprune.load" in out
    assert len(tokenprune.load(tmp_path / "new.safetensors").selectors) == 4
    code, _, err = command("convert", file, "--out", tmp_path / "new.safetensors", "--entry", "fake-mae")
    assert code == 1 and "is there already; give --out another name, or remove it first" in err
    code, out, _ = command("convert", file, "--to", "timm", "--out", tmp_path / "timm.safetensors", "--set", "r=3")
    assert code == 0 and "tensors in timm's keys" in out
    assert command("convert", file, "--out", tmp_path / "new.pth", "--set", "r=3")[0] == 1
