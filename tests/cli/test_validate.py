"""`make validate` and `make smoke`: every experiment is seen, and what is wrong is named."""

import sys

import pytest

from tokenprune.cli import smoke, validate
from tokenprune.cli.validate import Checked, check, checked, tell
from tokenprune.runs.composer import composer
from tokenprune.runs.presets import files

pytestmark = pytest.mark.system

ALL = [path.stem for path in files("experiment")]


def command(module, monkeypatch, capsys, *arguments):
    """Exit status, output and errors of a module's main."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    code = 0
    try:
        module.main()
    except SystemExit as stop:
        code = stop.code
    return (code, *capsys.readouterr())


@pytest.mark.parametrize("module, seam", [(validate, "checked"), (smoke, "ran")], ids=["validate", "smoke"])
def test_every_file_of_the_experiments_is_seen(module, seam, monkeypatch, capsys):
    seen = []

    def stand_in(names, *_):
        if module is smoke:
            seen.append(names)
            return True
        seen.extend(names)
        return [(name, Checked(valid=3)) for name in names]

    monkeypatch.setattr(module, seam, stand_in)
    published = ["released_classification", "released_svit"] if module is smoke else []  # which smoke leaves out
    assert command(module, monkeypatch, capsys)[0] == 0 and seen == [name for name in ALL if name not in published] and len(ALL) >= 30
    code, _, err = command(module, monkeypatch, capsys, "no_such_table")
    assert code == 2 and err.startswith("error: unknown experiment 'no_such_table'. Available: class_attention, cropr_appd_resolution, ")


@pytest.mark.parametrize("module", [validate, smoke])
def test_help_says_how_it_is_called(module, monkeypatch, capsys):
    code, out, _ = command(module, monkeypatch, capsys, "--help")
    assert code == 0 and f"tokenprune {module.__name__.rpartition('.')[2]} [EXPERIMENT ...]" in out and "Exit status" in out


def test_all_rows_at_all_scales_are_counted(capsys):
    """Two seeds of three and two gates at three scales; a report without rows."""
    found = dict(checked(["table4_gating", "table1_taxonomy"]))
    assert found == {"table4_gating": Checked(valid=2 * 3 * 3), "table1_taxonomy": Checked(valid=3)}
    assert tell("table4_gating", found["table4_gating"]) == ()
    assert capsys.readouterr().out == "table4_gating: 18 of 18 rows are valid (smoke, demo, paper)\n"


def test_bad_rows_are_named_and_expected_refusals_are_not_bad(monkeypatch, capsys):
    with composer() as compose:
        pairing = ["method=evit", "treatment=reactivate", "scale=smoke"]
        good, bad = (check(compose, [f"+experiment={name}", *pairing]) for name in ("cube", "fig7_keep_rates"))
        rate = check(compose, ["+experiment=fig7_keep_rates", "method=evit", "schedule.keep_rate=7", "scale=paper"])
        unknown = check(compose, ["+experiment=fig7_keep_rates", "method=evitt", "scale=paper"])
    assert good == Checked(refused=1)
    assert bad.wrong[0].startswith("+experiment=fig7_keep_rates method=evit treatment=reactivate scale=smoke: selector 'evit' x treatment")
    assert "schedule.keep_rate=7 scale=paper: schedule.keep_rate is 7; allowed: 0 < keep_rate <= 1" in rate.wrong[0]
    assert "unknown method 'evitt'. Did you mean 'evit'?" in unknown.wrong[0]
    monkeypatch.setattr(validate, "checked", lambda names: [("fig7_keep_rates", good.plus(bad).plus(rate))])
    code, out, err = command(validate, monkeypatch, capsys, "fig7_keep_rates")
    assert code == 3 and err.count("error: +experiment=fig7_keep_rates") == 2
    assert out.startswith("fig7_keep_rates: 0 of 3 rows are valid, 1 are pairings that it expects to be refused")


def test_smoke_says_how_each_experiment_ended(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(smoke, monkeypatch, capsys, "table1_taxonomy")
    assert (code, err) == (0, "") and out.startswith("table1_taxonomy: ok, 0 rows, ")
    code, out, err = command(smoke, monkeypatch, capsys, "table4_gating", "seed=x")
    assert code == 3 and "table4_gating: failed (exit status 2, results/smoke/logs/table4_gating.txt), 0 rows" in out
    assert "could not be converted to Integer" in err
    assert err.endswith("error: 1 of 1 experiments failed: table4_gating\n")
    assert (tmp_path / "results" / "smoke" / "tables" / "table1_taxonomy__scale-smoke").is_dir()


def test_smoke_leaves_the_weights_that_ship_alone():
    assert "export_weights=null" in smoke.SETTINGS and "results_dir=results/smoke" in smoke.SETTINGS
