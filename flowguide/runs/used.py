"""What a process has used so far."""

from __future__ import annotations

import sys

import torch


def memory_bytes(device: torch.device) -> int | None:
    """Most memory so far: the device's on a GPU, else the process's; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
