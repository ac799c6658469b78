"""Hydra's launchers for sweeps that survive: whatever becomes of the process of a row, the row is in the table (conf/launcher).

Hydra looks for launchers in the namespace package `hydra_plugins` alone. Those of hydra-joblib-launcher and hydra-submitit-launcher end a
sweep with the first process that is killed; the ones here wait for the others, and note what was lost.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn

_POLL = 0.2  # seconds


class TokenpruneBasicLauncher(BasicLauncher):
    """Rows one after another in the process of the command, which says how far it is."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Make the rows."""
        from tokenprune.runs import launchers

        launchers.plan(self, initial_job_idx + len(job_overrides))
        return super().launch(job_overrides, initial_job_idx)


@dataclass
class LocalConf:
    """The launcher above has no settings."""

    _target_: str = "hydra_plugins.tokenprune_launchers.TokenpruneBasicLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="tokenprune_local", node=LocalConf, provider="tokenprune")

with suppress(ImportError):  # the option is not there then, and the command line says what to install (tokenprune.runs.launchers.missing)
    from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

    class JoblibRows(JoblibLauncher):
        """Rows in worker processes that serve several rows each; a worker that is killed ends them all."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Start the rows and wait for them; those that a killed worker took with it are noted."""
            from joblib.externals.loky.process_executor import TerminatedWorkerError

            from tokenprune.runs import launchers

            launchers.alone()
            launchers.plan(self, initial_job_idx + len(job_overrides))
            runs: Sequence[JobReturn] = []
            with suppress(TerminatedWorkerError):
                runs = super().launch(job_overrides, initial_job_idx)
            launchers.record_lost_rows(self, dict(enumerate(job_overrides, initial_job_idx)))
            return runs

    @dataclass
    class JoblibConf(JobLibLauncherConf):
        """hydra-joblib-launcher's settings, for the launcher above."""

        _target_: str = "hydra_plugins.tokenprune_launchers.JoblibRows"

    ConfigStore.instance().store(group="hydra/launcher", name="tokenprune_joblib", node=JoblibConf, provider="tokenprune")

with suppress(ImportError):
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, LocalQueueConf, SlurmQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher

    class _Rows:
        """A process for each row; at most `at_once` of them beside each other, all at once where that is 0."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Start the rows, wait for each and say how it ended; what a process did not note of its row is noted for it."""
            from tokenprune.runs import launchers

            launchers.alone()
            launchers.plan(self, initial_job_idx + len(job_overrides))
            rows = launchers.rows_to_run(self, dict(enumerate(job_overrides, initial_job_idx)))
            at_once, executor = self.params.pop("at_once", 0), self._executor()
            fine = True
            for number, job in _ended(executor, self, rows, at_once or len(rows), Singleton.get_state()):
                well = job.paths.result_pickle.exists()
                fine &= well
                launchers.record_lost_rows(self, {number: rows[number]}, None if well else job.paths.stderr)
                launchers.tell(self, number)
            if fine:
                shutil.rmtree(Path(self.params["submitit_folder"]).parent, ignore_errors=True)
                with suppress(OSError):
                    Path(self.params["submitit_folder"]).parent.parent.rmdir()  # unless another sweep has its logs there
            return []

        def __call__(self, *job: Any, **place: Any) -> JobReturn:
            """Make the row in its own process. place: what `launchers.share` takes."""
            from tokenprune.runs import launchers

            if self._EXECUTOR == "local":
                launchers.share(**place)
            else:  # the cluster shares out
                launchers.allotted()
            return super().__call__(*job)

        def _executor(self) -> Any:
            import submitit

            from tokenprune.runs import launchers

            given = {k: v for k, v in self.params.items() if v is not None}
            folder, timeouts = given.pop("submitit_folder"), given.pop("max_num_timeout", None)
            extra = {} if timeouts is None else {f"{self._EXECUTOR}_max_num_timeout": timeouts}
            launchers.refuse_marks(folder)
            launchers.make_private(Path(folder.removesuffix("/%j")))  # the number of a job, a folder each
            executor = submitit.AutoExecutor(folder, cluster=self._EXECUTOR, **extra)
            common = BaseQueueConf.__dataclass_fields__
            executor.update_parameters(**{k if k in common else f"{self._EXECUTOR}_{k}": v for k, v in given.items()})
            return executor

    class SubmititLocalRows(_Rows, LocalLauncher):
        """A process of this machine for each row."""

    class SlurmRows(_Rows, SlurmLauncher):
        """A job of a SLURM array for each row."""

    @dataclass
    class SubmititLocalConf(LocalQueueConf):
        """hydra-submitit-launcher's settings, and how many rows run beside each other."""

        _target_: str = "hydra_plugins.tokenprune_launchers.SubmititLocalRows"
        at_once: int = 1

    @dataclass
    class SlurmConf(SlurmQueueConf):
        """hydra-submitit-launcher's settings, for the launcher above."""

        _target_: str = "hydra_plugins.tokenprune_launchers.SlurmRows"

    ConfigStore.instance().store(group="hydra/launcher", name="tokenprune_submitit_local", node=SubmititLocalConf, provider="tokenprune")
    ConfigStore.instance().store(group="hydra/launcher", name="tokenprune_slurm", node=SlurmConf, provider="tokenprune")


def _ended(
    executor: Any, launcher: Any, rows: Mapping[int, Sequence[str]], at_once: int, state: Mapping[Any, Any]
) -> Iterator[tuple[int, Any]]:
    """Start a job a row, at most `at_once` beside each other, and yield (row, job) as they end; interrupted, cancel what runs."""
    waiting, free, running = sorted(rows), list(range(at_once)), {}
    try:
        while waiting or running:
            if waiting and free:
                gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
                starting = [(waiting.pop(0), free.pop(0)) for _ in range(min(len(waiting), len(free)))]
                with executor.batch():  # one array on SLURM
                    jobs = [
                        executor.submit(launcher, list(rows[n]), "hydra.sweep.dir", n, str(n), state, slot=slot, beside=at_once, gpus=gpus)
                        for n, slot in starting
                    ]
                running.update({n: (job, slot) for (n, slot), job in zip(starting, jobs, strict=True)})
            time.sleep(_POLL)
            for number, (job, slot) in [item for item in running.items() if item[1][0].done()]:
                del running[number]
                free.append(slot)
                yield number, job
    finally:
        for job, _ in running.values():
            job.cancel(check=False)
