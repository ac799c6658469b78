"""What experiment files open with, taken apart."""

import pytest

from tokenprune.runs.experiment_files import experiment, of_text
from tokenprune.runs.presets import files

TEXT = """# @package _global_
# python -m tokenprune.run +experiment=mine        (seed=0,1 for more)
#
# Paper, Table 9: do tokens (Eq. 2) matter? Details follow here.
# Time: 2 rows,
# 3 minutes.
# Expect (COCO): nothing. On COCO: data=coco.
experiment: mine
"""


def test_a_header_is_taken_apart():
    found = of_text("mine", TEXT)
    assert found.command == "python -m tokenprune.run +experiment=mine" and found.remark == "seed=0,1 for more"
    assert found.gist == "Paper, Table 9: do tokens (Eq. 2) matter?" and found.purpose.endswith("Details follow here.")
    assert found.time == "2 rows, 3 minutes." and found.expect == "(COCO): nothing. On COCO: data=coco."
    assert experiment("no_such_experiment") is None


@pytest.mark.parametrize("name", [path.stem for path in files("experiment")])
def test_every_experiment_opens_with_its_command_purpose_time_and_expectation(name):
    found = experiment(name)
    assert found.command == f"python -m tokenprune.run +experiment={name}"
    assert found.purpose and found.time and found.expect
