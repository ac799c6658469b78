"""A finished row's model, brought back from disk to look at what it does."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tokenprune.errors import TokenPruneError
from tokenprune.runs.results import row_folder
from tokenprune.runs.row import WEIGHTS
from tokenprune.runs.run import Run
from tokenprune.runs.run_key import changed_code
from tokenprune.tasks.base import Task
from tokenprune.tasks.pictures import Picture
from tokenprune.utils import console
from tokenprune.utils.checkpoints import load_weights


class Loaded(NamedTuple):
    """A row's task, its model in eval mode (on the GPU where there is one), and the configuration both were built from."""

    task: Task
    model: nn.Module
    config: Run

    def pictures(self, numbers: Sequence[int] | None = None, predict: bool = True) -> Iterator[Picture]:
        """Return validation pictures as the model saw them, one by one.

        Args:
            numbers: indices in the validation split, those beyond its end left out; None is all of them.
            predict: with predicted objects, where the task has any; without, only the encoder runs, which is faster.

        Raises:
            TokenPruneError: the task shows no pictures.
        """
        return iter(console.progress(self.task.pictures(self.model, self.config, numbers, predict), "pictures"))


def load_row(row: Mapping[str, Any], results_dir: Path | str) -> Loaded:
    """Build the model of a finished row and load its trained weights.

    Args:
        row: a result row (`results.read_result`), for example of `Sweep.rows`.
        results_dir: the results folder that the row was made in.

    Raises:
        TokenPruneError: the row has no result, or its weights are gone. CheckpointMismatch: they are of another model.
    """
    name, folder = f"{row['label']} {row['treatment']} ({row['key']})", row_folder(results_dir, row["key"])
    if row["status"] != "ok":
        raise TokenPruneError(f"row {name} ended as {row['status']}: {row['reason']}; it has no model to show, run it again")
    path = folder / WEIGHTS
    if not path.is_file():
        raise TokenPruneError(f"row {name}: its weights {path} are gone; remove the folder {folder} and run the same command again")
    if words := changed_code(row):
        console.warn_once(f"{words}: what is shown is not the model that was judged; run it again")
    backbone = {**row["config"]["backbone"], "pretrained": None}  # the weights come from the row
    config = {**row["config"], "backbone": backbone, "results_dir": str(results_dir), "validate_only": False}
    run = Run.of(config)
    task = run.task_kind()
    model = task.build_model(run)
    load_weights(path, model)
    return Loaded(task, model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), run)
