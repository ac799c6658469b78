"""What the launchers of sweeps (`hydra_plugins.tokenprune_launchers`, chosen by conf/launcher) do around the processes of rows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.runs.config import implied_method, resolve
from tokenprune.runs.run import Run
from tokenprune.runs.standing import plan_rows, standing
from tokenprune.runs.sweep import ended, note_path, read_note, stored_or_refused, write_note
from tokenprune.utils import console, distributed

PREFIX = "hydra/launcher/tokenprune_"
PACKAGES = {"joblib": "hydra-joblib-launcher", "submitit_local": "hydra-submitit-launcher", "slurm": "hydra-submitit-launcher"}


def missing(option: str) -> str | None:
    """Return what to install where Hydra misses a config of that path, e.g. hydra/launcher/tokenprune_joblib; None for other paths."""
    name = option.removeprefix(PREFIX)
    if name == option or name not in PACKAGES:
        return None
    return f"launcher={name} needs {PACKAGES[name]}, which is not installed; run `pip install tokenprune[sweeps]`, or use launcher=local"


def alone() -> None:
    """Refuse to start processes from each of several.

    Raises:
        InvalidConfig: this is one of torchrun's.
    """
    if distributed.world() > 1:
        raise InvalidConfig("torchrun starts the processes of one row after another; use launcher=local with it, or no torchrun")


def refuse_marks(folder: str) -> None:
    """Refuse a folder of logs with a `%` of its own, which submitit would replace by the number of a job.

    Raises:
        InvalidConfig: its path has one beside the `%j` at its end.
    """
    if "%" in folder.removesuffix("%j"):
        raise InvalidConfig(
            f"{folder.removesuffix('/%j')} holds a '%', which submitit takes for a number of a job; give a results_dir without one, or"
            " another folder for the logs: hydra.launcher.submitit_folder=DIR/%j"
        )


def share(slot: int, beside: int, gpus: str | None) -> None:
    """Take this process's part of the machine: its share of the cores, and one of the command's GPUs, in turn.

    Args:
        slot: which of the processes this is, 0 to beside - 1. beside: how many there are at most.
        gpus: CUDA_VISIBLE_DEVICES of the command, which submitit empties; None where it is not set.
    """
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    if beside == 1:
        return
    import torch

    _compute_with(max(1, (os.cpu_count() or 1) // beside))
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def allotted() -> None:
    """Take the cores that SLURM gave this job, which not every cluster binds it to."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if cores.isdigit():
        _compute_with(int(cores))


def _compute_with(cores: int) -> None:
    """One thread a core, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(cores)


def rows_to_run(launcher: Any, rows: Mapping[int, Sequence[str]]) -> dict[int, Sequence[str]]:
    """Note the rows that need no process of their own, being done or refused, and return the others.

    Args:
        launcher: Hydra's, after `setup`. rows: {number: overrides}.
    """
    from tokenprune.runs.row import name_of

    left: dict[int, Sequence[str]] = {}
    for number, overrides in rows.items():
        try:
            config = _config(launcher, overrides)
            row = stored_or_refused(config)
        except (OmegaConfBaseException, InvalidConfig):  # the problem becomes the row's status where every row is made
            left[number] = overrides
            continue
        if row is None:
            left[number] = overrides
        else:
            write_note(_folder(launcher), number, name_of(config), row)
            tell(launcher, number)
    return left


def record_lost_rows(launcher: Any, rows: Mapping[int, Sequence[str]], log: Path | None = None) -> None:
    """Complete the notes of rows whose processes have ended: a row without one never began, one that was left behind names its log.

    Args:
        launcher: Hydra's, after `setup`. rows: {number: overrides}. log: what the process wrote, where it was killed.
    """
    from tokenprune.runs.row import name_of, status_row

    folder = _folder(launcher)
    for number, overrides in rows.items():
        if not note_path(folder, number).exists():
            config = _config(launcher, overrides)
            error = TokenPruneError("its process ended before the row was begun; run the command again")
            write_note(folder, number, name_of(config), status_row(config, error))
        note = read_note(note_path(folder, number))
        row = note["row"]
        if log is not None and row["status"] == "failed" and log.is_file():
            row = {**row, "reason": f"{row['reason']} (its output: {log})"}
        if note.get("running") or row is not note["row"]:
            write_note(folder, number, note["name"], row)


def make_private(folder: Path) -> None:
    """Make the folder through which submitit hands pickled jobs to its processes; nobody else may write to it.

    Raises:
        InvalidConfig: the folder belongs to another user, who could have put code there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise InvalidConfig(f"{folder} belongs to another user, and the launcher runs code that lies there; choose another results_dir")
    folder.chmod(0o700)


def tell(launcher: Any, number: int) -> None:
    """Say how a row ended, whose process said so in its log alone."""
    note = read_note(note_path(_folder(launcher), number))
    console.say(ended(number, note["name"], note["row"], launcher.config))
    console.say_if(standing(_folder(launcher)) if note.get("made") else "")


def plan(launcher: Any, rows: int) -> None:
    """Note how many rows a sweep has, for the line that says how far it is.

    Args:
        launcher: Hydra's, after `setup`.
        rows: Their number.
    """
    plan_rows(_folder(launcher), rows)


def _folder(launcher: Any) -> Path:
    return Path(str(launcher.config.hydra.sweep.dir))


def _config(launcher: Any, overrides: Sequence[str]) -> Run:
    load = launcher.hydra_context.config_loader.load_sweep_config
    config = load(launcher.config, list(overrides))
    implied = implied_method(config.hydra.runtime.choices)
    if implied:
        config = load(launcher.config, [*overrides, implied])
    return resolve(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
