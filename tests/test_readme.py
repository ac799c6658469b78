"""The README is true: its code works, its table is the measured one, its commands and plugins exist."""

import re
from pathlib import Path

import pytest
import timm
import torch

from tokenprune.cli import COMMANDS
from tokenprune.cli.docs import methods

ROOT = Path(__file__).parents[1]
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")})
README = (ROOT / "README.md").read_text()


def test_it_fits_two_screens():
    assert len(README.splitlines()) <= 80


@pytest.mark.system
def test_the_line_of_code_works_as_it_stands(monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name))  # without the download
    scope = {"__name__": "example", "images": torch.randn(1, 3, 224, 224)}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["logits"].shape == (1, 1000) and scope["outputs"].map.shape == (1, 196, 384)


@pytest.mark.parametrize("axis", ["selector", "treatment", "schedule"])
def test_its_axes_name_all_plugins(axis):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| **{axis}**")]
    assert set(re.findall(r"`(\w+)`", line)) == set(methods.own(axis)) - {"none"}


def test_it_counts_the_selectors():
    assert f"{len(methods.own('selector')) - ('none' in methods.own('selector'))} selectors" in README


def test_the_table_is_the_measured_one():
    measured = (ROOT / "experiments/table2_preserve/measured/keep_0.7.md").read_text()
    table = "\n".join(line for line in measured.splitlines() if line.startswith("|"))
    assert len(table.splitlines()) == 11  # head, rule, nine rows
    assert table in README


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_make_targets_experiments_and_commands_that_pages_name_exist(path):
    text = path.read_text()
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^    |`)make (\w+)", text, re.M)) <= targets
    experiments = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")} | {"NAME", "keep_rates"}  # the guide's own table
    assert set(re.findall(r"\+experiment=(\w+)", text)) <= experiments
    assert set(re.findall(r"(?:^ *|`)tokenprune ([a-z][\w-]*)", text, re.M)) <= set(COMMANDS)
