"""The command line: compose -> validate -> one result row, or a sweep of them.

    python -m tokenprune.run method=evit treatment=preserve          one row (and reports.usage.images=32: which tokens it uses)
    python -m tokenprune.run -m method=evit schedule.keep_rate=0.5,0.7,0.9
    python -m tokenprune.run +experiment=table2_preserve scale=smoke  a table
    python -m tokenprune.run ... --fresh                              make rows again that lie in the results folder
    torchrun --nproc_per_node=4 -m tokenprune.run ...                 any of these on several GPUs
    python -m tokenprune.run +experiment=... launcher=submitit_local  a process for each row (conf/launcher: joblib, slurm)

Exit status: 0 all is well, 2 a single run ended in an error (one line on standard error), 3 a row of a sweep did, or a report.
"""

import os
import sys
import warnings

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.runs.command_line import explain, prepared
from tokenprune.runs.config import REPORTS, implied_method, register_schema, resolve
from tokenprune.runs.run import Run
from tokenprune.runs.sweep import notes_folder
from tokenprune.utils import console, distributed
from tokenprune.utils.paths import config_dir

ERROR = 2


def main() -> None:
    """Run the command line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us: they are one line, and Hydra's own report is a page
    # Of Detectron2 0.6 under a new torch, and of gradients that DistributedDataParallel copies; nothing a user could do.
    for message in ("`?torch.jit.script", "torch.meshgrid", "Grad strides do not match bucket view strides"):
        warnings.filterwarnings("ignore", message=message)
    with distributed.processes():
        try:
            sys.argv[1:] = prepared(sys.argv[1:])
            register_schema()
            OmegaConf.register_new_resolver("notes_folder", notes_folder, replace=True)
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(_entry)()
        except (HydraException, OmegaConfBaseException, TokenPruneError) as error:
            console.fail(explain(error))
            distributed.leave(ERROR)
        except Exception as error:  # Hydra lets others through, too, such as ValueError for method=null
            if _begun(error):
                raise
            console.fail(f"the choices cannot be composed: {explain(error)}; `--help` shows all choices")
            distributed.leave(ERROR)


def _begun(error: Exception) -> bool:
    """Tell whether an error comes from a run, and not from composing it."""
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code is _entry.__code__:
            return True
        place = place.tb_next
    return False


def _entry(cfg: DictConfig) -> None:
    job, problem = HydraConfig.get(), None
    implied = implied_method(job.runtime.choices)
    try:
        cfg = hydra.compose("config", overrides=[*job.overrides.task, implied]) if implied else cfg
    except HydraException as error:  # it must not end a sweep
        problem = InvalidConfig(f"with {implied}, which the selector implies: {explain(error)}")
    if OmegaConf.is_missing(job.job, "num"):
        try:
            if problem is not None:
                raise problem
            _single(cfg)
        except (OmegaConfBaseException, TokenPruneError) as error:
            console.fail(explain(error))
            distributed.leave(ERROR)  # not raised: Hydra would print it as well
    elif cfg.with_rows:
        _in_sweep(cfg, int(job.job.num), str(job.sweep.dir), problem)


def _single(cfg: DictConfig) -> None:
    from tokenprune.runs.commands import command_of
    from tokenprune.runs.row import NOT_WRITTEN, name_of
    from tokenprune.runs.summary import shown_row
    from tokenprune.runs.sweep import BAD_ROW, report
    from tokenprune.runs.validation import validate

    config = resolve(cfg)
    if not config.with_rows:
        _only_report(config)
        return
    with distributed.together():
        words = distributed.of_main(lambda: validate(config, files=not config.validate_only))
    if config.validate_only:
        console.say(f"{name_of(config)} is valid; {words}")
        return
    row = shown_row(config, command_of(_words()))
    if any(note.startswith(NOT_WRITTEN) for note in row["notes"]):
        distributed.leave(ERROR)
    asked = {name: options for name, options in config.reports.items() if name not in REPORTS}
    if asked and distributed.is_main() and report(config.replace(reports=asked), [row], _words()):
        distributed.leave(BAD_ROW)


def _only_report(config: Run) -> None:
    """Make the reports of an experiment that has no rows."""
    from tokenprune.runs.reports import build_reports
    from tokenprune.runs.sweep import BAD_ROW, name_of_sweep, report

    chosen = build_reports(config.reports)
    if config.validate_only:
        console.say(f"{name_of_sweep(config)} is valid; no rows, reports: {', '.join(chosen)}")
    elif distributed.is_main() and report(config, [], _words()):
        distributed.leave(BAD_ROW)


def _words() -> list[str]:
    return list(HydraConfig.get().overrides.task)


def _in_sweep(cfg: DictConfig, number: int, folder: str, problem: InvalidConfig | None) -> None:
    """Make one row of a sweep; whatever goes wrong becomes its status, so that the other rows are made."""
    from tokenprune.runs.commands import command_of
    from tokenprune.runs.row import name_of, run_row, status_row
    from tokenprune.runs.standing import standing
    from tokenprune.runs.sweep import ended, stored_or_refused, write_note

    try:
        config = resolve(cfg)
    except (OmegaConfBaseException, InvalidConfig) as error:
        values = OmegaConf.to_container(cfg, resolve=False)
        config = Run.of({key: value for key, value in values.items() if key in Run()})  # type: ignore[union-attr]
        problem = problem or InvalidConfig(explain(error))
    name = name_of(config)
    killed = TokenPruneError("the process that made this row ended before the row was done; run the command again")
    write_note(folder, number, name, status_row(config, problem or killed), running=problem is None)
    if problem is None:
        known = stored_or_refused(config)
        row = known or run_row(config, command_of(_words()))
        write_note(folder, number, name, row, made=known is None)
        console.say(ended(number, name, row, config))
        console.say_if(standing(folder) if known is None else "")


if __name__ == "__main__":
    from tokenprune import run

    run.main()  # of the module by its name: processes of a launcher look its functions up, and would take __main__ for another file
