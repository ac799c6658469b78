"""The rows of experiments, composed together, are those that the command line composes one by one."""

from itertools import product

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tests.helpers.fakes import TINY, cli, fake  # noqa: F401
from tokenprune.runs.composer import composer
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.rows import rows_of

pytestmark = pytest.mark.system

# Two rows after one another of each kind: group axes, one with a value axis, seeds, a grid of groups, a single row.
SAMPLED = {"table2_preserve": (2, 3), "training_free": (7, 8, 9), "table5_sota": (4, 5), "cube": (10, 11, 12), "demo_weights": (0,)}


def test_rows_composed_together_are_those_composed_alone():
    with composer() as together:
        rows = {(name, n): [*together.rows(name)[n], "scale=demo"] for name, numbers in SAMPLED.items() for n in numbers}
        found = {place: resolve(together.compose(row)) for place, row in rows.items()}
        again = {place: resolve(together.compose(row)) for place, row in reversed(rows.items())}
    assert found == again == {place: resolve(compose(row)) for place, row in rows.items()}


def test_axes_are_multiplied_and_globs_are_files():
    with composer() as together:
        own = [f"+rows/training_free={name}" for name in rows_of("training_free")]
        rates = [f"schedule.keep_rate={rate}" for rate in ("0.9", "0.8", "0.7", "0.6", "0.5")]
        assert together.rows("training_free") == [["+experiment=training_free", *row] for row in product(own, rates)]
        assert together.rows("table1_taxonomy") == [["+experiment=table1_taxonomy"]]
        assert len(together.rows("cube")) == 25 * 6
        assert [len(together.rows("cropr_fig5_segmentation", scale)) for scale in ("smoke", "demo", "paper")] == [5, 5 * 3, 5 * 5]


def test_the_rows_are_those_of_the_sweep(cli, fake):  # noqa: F811
    """What Hydra's sweeper makes of the same file."""
    code, out, _ = cli("+experiment=table4_gating", *TINY, "validate_only=true")
    with composer() as together:
        assert code == 0 and f"{len(together.rows('table4_gating'))} of 6 rows are valid" in out


def test_what_cannot_be_composed_says_so():
    with composer() as together:
        for wrong in ("method=evitt", "seeed=1", "seed=x"):
            with pytest.raises((HydraException, OmegaConfBaseException)):
                together.compose(["+experiment=table2_preserve", "+rows/table2_preserve=03_evit_remove", wrong])
