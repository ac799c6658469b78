"""Every notebook runs top to bottom."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.system

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
nbclient = pytest.importorskip("nbclient", reason="the notebooks extra is not installed")
FOLDER = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="module")
def manager() -> Iterator[Any]:
    """One process for all notebooks, so that torch is imported once."""
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


SLOW = ("add_your_own_selector", "token_usage")  # a minute each
PATHS = [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in sorted(FOLDER.glob("*.ipynb"))]


@pytest.mark.parametrize("path", PATHS)
def test_runs_and_draws(path, manager, monkeypatch):
    monkeypatch.setenv("NOTEBOOK_SCALE", "smoke")  # for those that make a row: seconds
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # no notebook finds a name of the one before
    nbclient.NotebookClient(notebook, km=manager, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
