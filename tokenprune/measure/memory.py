"""Measures the most memory that a call holds at a time, beyond the memory in use before it."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


@torch.inference_mode()
def peak_memory(call: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Return the peak in bytes: activations and results of `call`, without weights and inputs.

    Args:
        call: The call to measure; it runs on the calling thread.
        device: On CUDA the allocator's own statistics are read, on a CPU those of torch's profiler.
    """
    device = torch.device(device)
    return _on_cuda(call, device) if device.type == "cuda" else _on_cpu(call)


def _on_cuda(call: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(call: Callable[[], Any]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler writes lines of its own to standard error
    with tempfile.TemporaryDirectory() as folder:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call()
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(e["ts"], int(e["args"]["Bytes"])) for e in events if e.get("name") == "[memory]" and e["args"].get("Device Type") == 0]
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most
