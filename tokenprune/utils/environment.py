"""Describes the environment of a row: versions, device and the state of the code; no paths, no user names."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_OWN = ("tokenprune", "conf", "hydra_plugins")  # folders of the checkout whose new files are code that may run
_CODE = (".py", ".yaml", ".yml", ".c", ".cpp", ".cu", ".so", ".pyx")


def environment(plugins: Iterable[Path] = ()) -> dict[str, Any]:
    """Return the schema's `environment`: python, torch, timm, detectron2, device, threads, commit, dirty, tokenprune.

    Args:
        plugins: Files of plugins of others that are used. Their code counts as well: `dirty` is true if it, or the code of this checkout,
            is changed or new and in no commit.
    """
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()}, {os.cpu_count()} cores)"
    commit, dirty = _state(plugins)
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


def _state(plugins: Iterable[Path]) -> tuple[str | None, bool | None]:
    """Return the commit of this checkout, and if any code that runs is not committed; (None, None) outside a checkout without such code."""
    commit, dirty = None, None
    if (_ROOT / ".git").exists():
        commit, dirty = _in_git("rev-parse", "HEAD"), _uncommitted(_ROOT, _OWN)
    return commit, True if any(not _committed(path) for path in plugins) else dirty


def _committed(file: Path) -> bool:
    """Tell whether the code around a plugin's file is that of a commit or of an installed package."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    root = _in_git("rev-parse", "--show-toplevel", cwd=file.parent)
    if root is None or _in_git("ls-files", "--error-unmatch", str(file), cwd=file.parent) is None:
        return False
    return not _uncommitted(Path(root), ())


def _uncommitted(root: Path, places: Iterable[str]) -> bool | None:
    """Tell whether a repository has changed files, or new files of code in `places` (none for everywhere); None where git fails."""
    found = [_in_git("status", "--porcelain", "--untracked-files=no", cwd=root)]
    found += [_in_git("ls-files", "--others", "--exclude-standard", "--", *places, cwd=root)]
    if None in found:
        return None
    return bool(found[0]) or any(Path(name.strip('"')).suffix in _CODE for name in str(found[1]).splitlines())


def _in_git(*words: str, cwd: Path | None = None) -> str | None:
    """Return what git prints; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", *words], cwd=cwd or _ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
