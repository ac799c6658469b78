"""The row on disk: schema, key, atomic writes, locks."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.fakes import row
from tests.helpers.image_sets import both_splits, pack
from tokenprune.errors import ResultSchemaError
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.results import check, collect, finished, read_result, row_folder, write_result
from tokenprune.runs.run_key import VOLATILE, run_key
from tokenprune.utils.code import code_digest
from tokenprune.utils.locks import locked

EVERYTHING_ELSE = ("seed", "cls", "execution", "selector", "treatment", "schedule", "losses", "task", "data", "init")


@pytest.fixture(scope="module")
def config() -> dict:
    return resolve(compose(["method=evit", "scale=smoke"]))


def test_round_trip(tmp_path):
    path = write_result(tmp_path, row())
    assert read_result(path) == row() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"extra": 1}, "unknown field 'extra'"),
        ({"seed": "0"}, "seed is '0', expected int"),
        ({"seed": True}, "seed is True, expected int"),
        ({"schema": 2}, "tokenprune 0.1.0 wrote it in schema 2; read it with that version"),
        ({"status": "great"}, "status is 'great', allowed: ok, invalid, diverged, oom, failed"),
        ({"metrics": {"ap_box": float("nan")}}, "metrics.ap_box is nan"),
        ({"metrics": {"ap_box": "40"}}, "metrics.ap_box is '40'"),
        ({"metrics": {"AP box": 1.0}}, "unknown metric name 'AP box'"),
        ({"cost": {"gmac_total": float("inf")}}, "cost.gmac_total is inf"),
        ({"cost": {"kept_per_block": [1.0, float("nan")]}}, "cost.kept_per_block"),
        ({"cost": {"gmac_totl": 1.0}}, "unknown field cost.gmac_totl"),
        ({"environment": {"user": "me"}}, "unknown field environment.user"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_what_the_schema_refuses(tmp_path, change, words):
    with pytest.raises(ResultSchemaError, match="does not follow schema 1") as caught:
        write_result(tmp_path, row(**change))
    assert words in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", sorted(row()))
def test_every_field_is_needed(field):
    with pytest.raises(ResultSchemaError, match=f"missing field '{field}'"):
        check({k: v for k, v in row().items() if k != field})


def test_ok_rows_need_cost_and_metrics_and_others_do_not():
    for section in ("metrics", "cost"):
        with pytest.raises(ResultSchemaError):
            check({**row(), section: {}})
    check({**row(), "metrics": {}, "cost": {}, "timing": {}, "status": "failed", "reason": "why"})


def test_a_row_needs_only_what_its_configuration_measures():
    check({**row(config={"measure": ["cost"]}), "metrics": {}})
    check({**row(config={"measure": ["accuracy"]}), "cost": {}})
    with pytest.raises(ResultSchemaError, match="missing field cost.gmac_total"):
        check({**row(config={"measure": ["cost"]}), "cost": {}})


def test_speed_may_be_unmeasured():
    check(row(cost={"seconds_encoder": None, "seconds_total": None}))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", json.dumps({"schema": 1})])
def test_unreadable_results_are_named_and_not_finished(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    assert finished(tmp_path) is None
    with pytest.raises(ResultSchemaError):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize("status, done", [("ok", True), ("diverged", True), ("failed", False), ("oom", False), ("invalid", False)])
def test_what_is_run_again(tmp_path, status, done):
    write_result(tmp_path, row(status=status))
    assert (finished(tmp_path) is not None) is done


def test_collect_is_one_flat_line_a_row(tmp_path):
    for seed in (0, 1):
        write_result(row_folder(tmp_path, f"k{seed}"), row(seed=seed))
    data = collect(tmp_path)
    assert list(data["seed"]) == [0, 1] and list(data["keep_rate"]) == [0.7, 0.7] and list(data["ap_box"]) == [40.0, 40.0]


def test_key_is_the_same_in_any_order_and_process(config):
    assert run_key(dict(reversed(list(config.items())))) == run_key(config)
    assert len(run_key(config)) == 16 and int(run_key(config), 16) >= 0


@pytest.mark.parametrize("name", VOLATILE)
def test_names_and_places_are_no_part_of_the_key(config, name):
    assert run_key({**config, name: "something else"}) == run_key(config)


@pytest.mark.parametrize("name", ["name", "size"])
def test_nor_is_what_a_backbone_is_called(config, name):
    assert run_key({**config, "backbone": {**config["backbone"], name: "something else"}}) == run_key(config)
    assert run_key({**config, "backbone": {**config["backbone"], "adapter": {}}}) != run_key(config)


@given(st.sampled_from(EVERYTHING_ELSE), st.integers(1, 99))
def test_everything_else_is(config, name, value):
    changed = {**config[name], "new": value} if isinstance(config[name], dict) else value if name == "seed" else f"x{value}"
    assert run_key({**config, name: changed}) != run_key(config)


def test_the_key_of_a_row_holds_the_recipe_of_the_dense_model_it_starts_from(config):
    longer = {**config["dense"], "training": {**config["dense"]["training"], "iterations": 99}}
    assert run_key({**config, "dense": longer}) != run_key(config)
    assert run_key({**config, "dense": longer, "init": "scratch"}) == run_key({**config, "init": "scratch"})
    rarer = {**config["dense"], "training": {**config["dense"]["training"], "checkpoint_every": 99}}
    assert run_key({**config, "dense": rarer}) == run_key(config)


def test_files_count_by_content_and_not_by_path(config, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(b"weights"), second.write_bytes(b"weights")
    keys = [run_key({**config, "init": str(path)}) for path in (first, second)]
    assert keys[0] == keys[1] != run_key(config)
    second.write_bytes(b"WEIGHTS")
    assert run_key({**config, "init": str(second)}) != keys[0]


def test_a_data_folder_counts_by_its_annotations(config, tmp_path):
    def key(folder: Path, text: str) -> str:
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / "instances_val2017.json").write_text(text)
        return run_key({**config, "data": {"name": "coco", "root": str(folder), "val_split": "val2017"}})

    assert key(tmp_path / "a", "{}") == key(tmp_path / "b", "{}") != key(tmp_path / "a", "{ }")


def test_image_folders_and_archives_count_by_content(config, tmp_path):
    def key(root: Path, **data) -> str:
        return run_key({**config, "data": {"name": "imagefolder", "root": str(root), "train_split": "train", "val_split": "val", **data}})

    folders = [both_splits(tmp_path / name, ("a", "b")) for name in ("one", "two")]
    assert key(folders[0]) == key(folders[1]) != key(tmp_path / "nowhere")
    pack(folders[0] / "val", tmp_path / "zips" / "val.zip")
    zipped = key(tmp_path / "zips")
    assert zipped != key(folders[0])
    pack(folders[0] / "train", tmp_path / "zips" / "val.zip")
    assert key(tmp_path / "zips") != zipped and key(tmp_path / "zips" / "val.zip") != zipped
    (folders[1] / "test").mkdir()
    assert key(folders[0]) == key(folders[1]) != key(folders[1], max_val=3)
    picture = next(path for path in (folders[1] / "val" / "a").iterdir())
    content = picture.read_bytes()
    picture.write_bytes(bytes(len(content)))  # another picture of the same name and size
    assert key(folders[0]) != key(folders[1])
    picture.write_bytes(content)
    (folders[1] / "val" / "b" / "more.png").write_bytes(b"")
    assert key(folders[0]) != key(folders[1])


def test_a_lock_is_held_by_one_process_and_dropped_when_it_dies(tmp_path, capsys):
    ready, wait = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path / "lock", "row"):
            os.write(wait, b"x")
            time.sleep(60)
    os.read(ready, 1)
    begun = time.monotonic()
    killer = os.fork()
    if killer == 0:
        time.sleep(0.2)
        os.kill(child, signal.SIGKILL)
        os._exit(0)
    with locked(tmp_path / "lock", "row of the test") as waited:
        assert waited and time.monotonic() - begun >= 0.15
    os.waitpid(child, 0), os.waitpid(killer, 0)
    assert f"waiting for row of the test: process {child}" in capsys.readouterr().out
    with locked(tmp_path / "lock", "row") as waited:
        assert not waited


def test_the_code_of_a_plugin_counts(config, monkeypatch):
    """The workflow of adding a selector: run, change the score, run again."""
    before = run_key(config)
    monkeypatch.setattr("tokenprune.runs.run_key.code_digest", lambda plugin: "new" if plugin.name == "evit" else code_digest(plugin))
    assert run_key(config) != before


def test_a_row_records_the_code_that_it_used_and_rows_without_it_are_read(tmp_path):
    from tests.helpers.fakes import TINY
    from tokenprune.errors import TokenPruneError
    from tokenprune.registry import get
    from tokenprune.runs.row import status_row

    made = status_row(resolve(compose(["scale=smoke", "task=classification", "method=evit", *TINY[2:]])), TokenPruneError("why"))
    assert {"selector.evit", "schedule.stages", "task.classification"} <= made["plugins"].keys()
    about = made["plugins"]["selector.evit"]
    assert about["module"] == "tokenprune.methods.selectors.evit" and about["package"] == "tokenprune" and about["version"]
    assert about["code"] == code_digest(get("selector", "evit")) and made["made"].endswith("+00:00")
    assert read_result(write_result(tmp_path / "new", made)) == made
    old = {name: value for name, value in made.items() if name not in ("plugins", "made")}
    assert read_result(write_result(tmp_path / "old", old)) == old
    with pytest.raises(ResultSchemaError, match=r"plugins.selector.evit is 'x', expected a mapping with module"):
        write_result(tmp_path / "bad", {**made, "plugins": {"selector.evit": "x"}})
