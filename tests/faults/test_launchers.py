"""Rows in processes of their own: whatever becomes of a process, its row is in the table, and the same command makes only what is left."""

import os
import sys

import pytest
from hydra.core.config_store import ConfigStore

from tests.helpers.deadly import DeadlyCli, deadly  # noqa: F401
from tests.helpers.fakes import (
    cli,  # noqa: F401
    newest_tables,
)
from tokenprune.errors import InvalidConfig
from tokenprune.runs import launchers
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.presets import files
from tokenprune.runs.run_key import run_key
from tokenprune.utils import distributed

pytestmark = pytest.mark.system

LAUNCHERS = {"joblib": "JoblibRows", "slurm": "SlurmRows", "submitit_local": "SubmititLocalRows"}
BROKEN = {"random": "failed", "variance": "diverged", "topk": "oom", "attn_topk": "failed"}
METHODS = ("evit", "ats", "tome", "dpc_knn", "kmedoids", "radial", *BROKEN)
FOR_GOOD = ("evit", "ats", "tome", "dpc_knn", "topk")  # no token of theirs comes back (SViT, section 4.1)
SMALL = {("evit", "preserve"): "ok", ("sit", "preserve"): "invalid", ("random", "preserve"): "failed", ("attn_topk", "preserve"): "failed"}
TWENTY = {
    (method, treatment): "invalid" if treatment == "reactivate" and method in FOR_GOOD else BROKEN.get(method, "ok")
    for method in METHODS
    for treatment in ("preserve", "reactivate")
}


def sweep_twice(command: DeadlyCli, axes: list[str], expected: dict[tuple[str, str], str]) -> None:
    """Run a sweep with a process for each row, and again; hold statuses and what is made again against what is expected."""
    arguments = ["launcher=submitit_local", "hydra.launcher.at_once=2", *axes]
    for unfinished in (expected.values(), ("failed", "oom")):  # a diverged row would diverge again
        code, out, err, built = command.sweep(*arguments)
        table = command.table()
        assert code == 3 and len(table) == len(expected)
        assert {(row["method"], row["treatment"]): row["status"] for row in table} == expected
        assert built == sorted(" ".join(row) for row, status in expected.items() if status in unfinished and status != "invalid")
        assert sorted(line.split("]")[0] for line in out.splitlines() if line[:1] == "[") == sorted(f"[{n + 1}" for n in range(len(table)))
        killed = next(line for line in err.splitlines() if line.startswith("error: Attn Top-K"))
        assert "ended before the row was done" in killed and os.path.isfile(killed.rpartition("its output: ")[2].rstrip(")"))
        assert "KeyError: 'a bug somewhere'" in err and not (command.folder / "results" / ".sweeps").exists()


@pytest.mark.slow
def test_a_killed_row_is_a_row_and_ends_alone(deadly):  # noqa: F811
    sweep_twice(deadly, [f"method={','.join(method for method, _ in SMALL)}", "treatment=preserve"], SMALL)


@pytest.mark.slow
def test_twenty_rows_of_which_twelve_are_not_well_are_twenty_rows(deadly):  # noqa: F811
    assert len(TWENTY) == 20 and sum(status != "ok" for status in TWENTY.values()) == 12
    sweep_twice(deadly, [f"method={','.join(METHODS)}", "treatment=preserve,reactivate"], TWENTY)


def test_joblib_ends_with_the_table_of_local_and_loses_no_row_with_a_worker(deadly):  # noqa: F811
    """Of three rows in two workers one kills its worker: it takes those with it that are not done."""
    tables = []
    for launcher in ("local", "joblib"):
        code, _, err, _ = deadly.sweep(f"results_dir=results/{launcher}", f"launcher={launcher}", "method=evit,evo_vit")
        assert (code, err) == (0, "")
        tables.append((newest_tables(deadly.folder / "results" / launcher) / "table.md").read_text())
    assert tables[0] == tables[1] and "EViT" in tables[0] and "Evo-ViT" in tables[0]
    code, _, err, built = deadly.sweep("launcher=joblib", "hydra.launcher.n_jobs=2", "method=attn_topk,evit,evo_vit")
    found = {row["method"]: row["status"] for row in deadly.table()}
    assert code == 3 and len(found) == 3 and found.pop("attn_topk") == "failed" and set(found.values()) <= {"ok", "failed"}
    # Rows of one reason are one line, and a lost row was either begun or not.
    assert err.count("error: ") == err.count("process") == 1 + ("before the row was begun" in err and "before the row was done" in err)
    assert any(line.startswith("attn_topk") for line in built)


def test_launchers_change_no_key_and_leave_the_default_as_it_is():
    keys = {run_key(resolve(compose(["method=evit", "scale=smoke", f"launcher={path.stem}"]))) for path in files("launcher")}
    assert {path.stem for path in files("launcher")} == {"local", *LAUNCHERS}
    assert keys == {run_key(resolve(compose(["method=evit", "scale=smoke"])))}


@pytest.mark.parametrize(("launcher", "package"), launchers.PACKAGES.items())
def test_a_launcher_that_is_not_installed_says_what_to_install(cli, monkeypatch, launcher, package):  # noqa: F811
    cli("method=evit", "validate_only=true")  # now Hydra has looked for launchers
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"tokenprune_{launcher}.yaml")
    code, _, err = cli("-m", "method=evit,ats", f"launcher={launcher}")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith(f"error: launcher={launcher} needs {package}, which is not installed; run `pip install tokenprune[sweeps]`")


def test_an_unknown_launcher_is_an_ordinary_mistake(cli):  # noqa: F811
    code, _, err = cli("-m", "method=evit,ats", "launcher=submitit")
    assert code == 2 and "unknown launcher 'submitit'. Did you mean 'submitit_local'? Available: joblib, local, slurm, submitit" in err


def test_torchrun_and_a_launcher_are_one_too_many(monkeypatch):
    launchers.alone()
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(InvalidConfig, match="use launcher=local with it, or no torchrun"):
        launchers.alone()


def test_a_process_gets_the_gpus_of_the_command_back(monkeypatch):
    """submitit empties CUDA_VISIBLE_DEVICES; the second of two processes takes the second GPU and half of the cores."""
    import torch

    taken = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: taken.append(("threads", n)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda n: taken.append(("gpu", n)))
    launchers.share(0, 1, "0,1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1" and taken == []
    launchers.share(3, 4, None)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ and taken == [("threads", 2), ("gpu", 1)]


def test_a_job_computes_with_the_cores_that_it_was_given(monkeypatch):
    import torch

    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    launchers.allotted()
    assert taken == []
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    launchers.allotted()
    assert taken == [3]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launchers.allotted()
    assert taken == [3]


SBATCH = """#!{python}
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
open("sbatch.txt", "w").write(text)
number = int(re.search(r"--array=0-(\\d+)", text).group(1)) + 1
command = re.search(r"^srun .*?(\\S*python.*)$", text, re.MULTILINE).group(1)
for task in range(number):
    ids = {{"SLURM_JOB_ID": str(78 + task), "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task), "SUBMITIT_EXECUTOR": "slurm"}}
    ids |= {{"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}
    quiet = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
    subprocess.Popen("sleep 0.5; exec " + command, shell=True, env={{**os.environ, **ids}}, **quiet)
print("Submitted batch job 77")
"""


def test_slurm_gets_an_array_with_what_was_asked_for(deadly, monkeypatch):  # noqa: F811
    """A stand-in for sbatch keeps the script and starts the array's tasks itself."""
    tools = {"sbatch": SBATCH.format(python=sys.executable), "srun": "#!/bin/sh", "sacct": "#!/bin/sh\necho 'JobID|State|NodeList'"}
    for name, text in tools.items():
        path = deadly.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(deadly.folder / "bin"), prepend=os.pathsep)
    given = ["partition=gpu", "timeout_min=90", "mem_gb=7", "array_parallelism=1"]
    code, out, err, built = deadly.sweep("launcher=slurm", "method=evit,random", *(f"hydra.launcher.{setting}" for setting in given))
    assert code == 3 and err.count("error: ") == 1 and "KeyError: 'a bug somewhere'" in err
    assert built == ["evit remove", "random remove"] and [row["status"] for row in deadly.table()] == ["ok", "failed"]
    script = (deadly.folder / "sbatch.txt").read_text()
    for line in ("partition=gpu", "time=90", "mem=7GB", "array=0-1%1", "gpus-per-node=1", "cpus-per-task=8", "job-name=tokenprune"):
        assert f"#SBATCH --{line}\n" in script
    assert f"{deadly.folder}/results/logs/" in script


def test_a_folder_with_a_percent_sign_is_refused_where_submitit_would_change_it(cli):  # noqa: F811
    pytest.importorskip("submitit", reason="the extra `sweeps` is not installed")
    code, out, err = cli("-m", "scale=smoke", "seed=0,1", "results_dir=a%job", "init=scratch", "launcher=submitit_local")
    assert code == 2 and err.count("\n") == 1 and "holds a '%'" in err and "Traceback" not in out + err
    code, out, _ = cli("-m", "scale=smoke", "seed=0,1", "results_dir=a%job", "validate_only=true")
    assert code == 0 and "2 of 2 rows are valid" in out
