"""How long threads of OpenMP wait busily: briefly, unless the user says it or torch has been loaded before."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

SHOW = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("code", "given", "expected"),
    [
        ("import tokenprune", {}, "10000"),
        ("import tokenprune", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("import tokenprune", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("import torch, tokenprune", {}, "None"),
    ],
)
def test_the_environment_says_how_threads_wait(code, given, expected):
    known = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", f"{code}; {SHOW}"], env={**known, **given}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]
