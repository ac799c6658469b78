"""Describes the machine of a row, and refuses one that has no GPU."""

import shutil
import subprocess
from datetime import datetime, timezone
from typing import Any

import torch

from tokenprune.errors import MissingDependency
from tokenprune.utils.environment import environment

SAME = ("device", "driver", "torch")  # rows of one folder agree in these


def gpu() -> torch.device:
    """Return the CUDA device.

    Raises:
        MissingDependency: There is none.
    """
    if not torch.cuda.is_available():
        raise MissingDependency(
            f"no CUDA device is at hand: torch {torch.__version__} sees none; allowed: a machine with one and a torch built for it;"
            " `tokenprune gpu --tiny` runs every part on the CPU at the size of a test, and its numbers mean nothing"
        )
    return torch.device("cuda")


def facts(device: torch.device) -> dict[str, Any]:
    """Return what every row says of its machine, its code and its time."""
    found = environment()
    known = {key: found[key] for key in ("torch", "timm", "python", "tokenprune", "commit", "dirty")}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else found["device"]
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"device": name, "driver": _driver() if device.type == "cuda" else "none", **known, "made": made}


def _driver() -> str:
    """Return the version of the driver, and the CUDA that torch was built for."""
    cuda = f"CUDA {torch.version.cuda}"
    if shutil.which("nvidia-smi") is None:
        return cuda
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return cuda
    return f"{done.stdout.splitlines()[0].strip()}, {cuda}"
