"""Describes the environment of a row: versions, device and the state of the code; no paths, no user names."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Return the schema's `environment`: python, torch, timm, detectron2, device, threads, commit, dirty, tokenprune."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()}, {os.cpu_count()} cores)"
    commit, dirty = _git()
    return {
        "python": platform.python_version(), "torch": torch.__version__, "timm": installed("timm"), "detectron2": installed("detectron2"),
        "device": device, "threads": torch.get_num_threads(), "commit": commit, "dirty": dirty, "tokenprune": installed("tokenprune"),
    }  # fmt: skip


def installed(package: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> tuple[str | None, bool | None]:
    """Return the commit of this checkout and if files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        commit, changes = (
            subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changes)
