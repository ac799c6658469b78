"""What the README says is so: its example selector works, its table is the measured one, its commands exist."""

import re
from pathlib import Path

import torch

import tokenprune
from tests.helpers.fakes import own_registry  # noqa: F401
from tests.helpers.pairings import images, tiny_vit

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_selector_works_as_it_stands(own_registry):  # noqa: F811
    example = next(code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "@register" in code)
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    model = tokenprune.prune(tiny_vit(), selector="norm", schedule={"name": "explicit", "keep": {2: 10}})
    with torch.no_grad():
        assert int(model.encode(images(1)).present.sum()) == 10


def test_the_table_is_the_measured_one():
    measured = (ROOT / "experiments/table2_preserve/measured/keep_0.7.md").read_text()
    table = "\n".join(line for line in measured.splitlines() if line.startswith("|"))
    assert len(table.splitlines()) == 11  # head, rule, nine rows
    assert table in README


def test_every_make_target_and_experiment_it_names_exists():
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^    make (\w+)", README, re.M)) <= targets
    experiments = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}
    assert set(re.findall(r"\+experiment=(\w+)", README)) <= experiments
