"""A task for rows in processes of their own: as the fake one, and `attn_topk` kills its process as the kernel does when memory is out."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.helpers.fakes import TINY, Cli, FakeTask
from tokenprune import registry

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [*TINY, "task.name=deadly", "init=scratch"]


class DeadlyTask(FakeTask):
    """Writes what it is asked to make into results/built.txt, because it is asked in another process."""

    name = "deadly"

    def build_model(self, cfg: dict[str, Any]) -> nn.Module:
        with Path(cfg["results_dir"], "built.txt").open("a") as file:
            file.write(f"{cfg['method']} {cfg['treatment']['name']}\n")
        if cfg["selector"]["name"] == "attn_topk":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build_model(cfg)


def plug_in() -> None:
    """What the entry point loads; the import of this module registers nothing in the process of the tests."""


if "TOKENPRUNE_DEADLY" in os.environ:
    registry.register("task", "deadly")(DeadlyTask)


class DeadlyCli(Cli):
    """A command line whose rows' processes find the task as a plugin of another package."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, capsys, monkeypatch)
        site = folder / "site" / "deadly-1.0.dist-info"
        site.mkdir(parents=True)
        (site / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
        (site / "entry_points.txt").write_text("[tokenprune.plugins]\ndeadly = tests.helpers.deadly:plug_in\n")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(site.parent)]))
        monkeypatch.syspath_prepend(site.parent)  # joblib hands its workers sys.path
        monkeypatch.setenv("TOKENPRUNE_DEADLY", "1")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        registry.names("task")
        monkeypatch.setitem(registry._plugins["task"], "deadly", DeadlyTask)

    def sweep(self, *arguments: str) -> tuple[int, str, str, list[str]]:
        """Return exit status, standard output, standard error, and what the rows' processes began to make, sorted."""
        built = self.folder / "results" / "built.txt"
        built.parent.mkdir(exist_ok=True)
        built.write_text("")
        ended = self("-m", *SETTINGS, *arguments)
        return (*ended, sorted(built.read_text().split("\n")[:-1]))

    def table(self) -> list[dict[str, str]]:
        """Return the lines of the last sweep's table."""
        with (self.tables() / "table.csv").open() as file:
            return list(csv.DictReader(file))


@pytest.fixture
def deadly(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> DeadlyCli:
    """The command line, in an empty folder, with `task.name=deadly`."""
    return DeadlyCli(tmp_path, capsys, monkeypatch)
