"""The package under examples/, installed as a user would: in the list, in a sweep, in its table; a broken one beside it harms nothing."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tokenprune
from tests.helpers.fakes import (
    newest_tables,
    own_registry,  # noqa: F401
)
from tests.helpers.pairings import images, tiny_vit

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "tokenprune-plugin"
WARNING = "warning: plugin 'broken' (tokenprune_broken) failed to load and is ignored: ZeroDivisionError: "


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the plugin, installed by pip from a copy, and one that raises when it is imported."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (target / "tokenprune_broken.py").write_text("1 / 0\n")
    about = target / "tokenprune_broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenprune-broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[tokenprune.plugins]\nbroken = tokenprune_broken\n")
    return target


def command(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_it_is_in_the_list(site, tmp_path):
    done = command(site, tmp_path, "tokenprune.cli.list")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  checkerboard ")]
    assert "Keeps patches spread evenly" in line
    assert done.returncode == 0 and done.stderr.count(WARNING) == 1 == len(done.stderr.splitlines())


def test_it_is_a_row_of_a_sweep_and_of_its_table(site, tmp_path):
    settings = ["task=classification", "scale=smoke", "init=scratch", "training.iterations=1"]
    done = command(site, tmp_path, "tokenprune.run", "-m", "method=checkerboard,random", *settings)
    assert done.returncode == 0 and done.stderr.count(WARNING) == 1, done.stderr
    with (newest_tables(tmp_path / "results") / "table.csv").open() as file:
        found = {line["label"]: (line["treatment"], line["status"]) for line in csv.DictReader(file)}
    assert found == {"Checkerboard": ("remove", "ok"), "Random": ("remove", "ok")}
    rows = [json.loads(path.read_text()) for path in (tmp_path / "results" / "rows").glob("*/result.json")]
    free = "macs() is not overridden: the decisions of selector {} are counted as free"
    assert {row["label"] for row in rows if free.format(row["method"]) in row["notes"]} == {"Checkerboard"}  # not of methods that ship
    (about,) = [row["plugins"]["selector.checkerboard"] for row in rows if row["label"] == "Checkerboard"]
    assert about["module"].startswith("tokenprune_checkerboard") and about["package"] == "tokenprune-checkerboard" and about["version"]
    alone = command(site, tmp_path, "tokenprune.run", "selector=checkerboard", *settings[:3], "validate_only=true")
    assert alone.returncode == 0 and "64 positions: block 3 keep 44, block 6 keep 31" in alone.stdout, alone.stderr


@pytest.fixture
def plugin(own_registry):  # noqa: F811
    """The module itself, registered for one test."""
    spec = importlib.util.spec_from_file_location("tokenprune_checkerboard", EXAMPLE / "tokenprune_checkerboard" / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_half_of_the_tokens_are_a_checkerboard_and_a_quarter_every_second_row(plugin):
    model = tokenprune.prune(tiny_vit(), selector="checkerboard", schedule={"name": "explicit", "keep": {2: 32}})
    with torch.no_grad():
        present = model.encode(images(2)).present
    row, column = torch.arange(8)[:, None], torch.arange(8)[None]
    assert torch.equal(present.view(2, 8, 8)[0], (row + column) % 2 == 0) and torch.equal(present[0], present[1])
    quarter = plugin.order(8, 8).flatten().sort().indices[:16].sort().values
    assert quarter.tolist() == [8 * r + c for r in range(0, 8, 2) for c in range(0, 8, 2)]
    assert plugin.order(64, 64).flatten().sort().values.tolist() == list(range(64 * 64))  # no ties


def test_its_readme_names_what_is_there():
    text = (EXAMPLE / "README.md").read_text()
    for path in ("tokenprune_checkerboard/__init__.py", "tokenprune_checkerboard/conf/method/checkerboard.yaml", "pyproject.toml"):
        assert path in text and (EXAMPLE / path).is_file()
