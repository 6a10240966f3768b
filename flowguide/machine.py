"""What this machine computes with: device, arithmetic, threads."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
from pathlib import Path
from typing import Any

import torch

from .errors import BackendMissing, UnknownName, UsageError

log = logging.getLogger("flowguide.machine")


def choose_device(name: str) -> torch.device:
    """The device for `name`: 'auto' is the first CUDA device where there is one, else the CPU.

    Raises BackendMissing where a CUDA device was asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device should be auto, cpu, cuda or cuda:N, got {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device should be auto, cpu, cuda or cuda:N, got {name!r}.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendMissing(
            f"device {name!r} was asked for, and torch finds no CUDA device ({why_no_cuda()}); use --device cpu."
        )
    return device


def why_no_cuda() -> str:
    """Why torch finds no CUDA device: a build without CUDA, no driver, or one that is too old; in torch's words."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        words = " ".join(str(error).split())
        return words.partition(". ")[0].rstrip(".") or type(error).__name__
    return "none is visible; look at CUDA_VISIBLE_DEVICES"


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The model's arithmetic for `name`: 'auto' is float16 on a GPU, bfloat16 on a CPU that has it, else float32.

    Raises UnknownName for any other name.
    """
    if name not in ("auto", "float32", "float16", "bfloat16"):
        raise UnknownName("dtype", name, ("auto", "float32", "float16", "bfloat16"))
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if has_fast_bfloat16() else torch.float32


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_threads(asked: int) -> int:
    """Threads for the model on the CPU: those `asked` for; 0 leaves one core to what works beside the model (reading,
    flow, encoding), or what OMP_NUM_THREADS says.

    On two idle cores a second thread is 17 % faster for 26 % more work (benchmarks/threads.py); beside anything else
    OpenMP's threads wait for each other, spinning, and a frame takes several times as long (decision 0032).
    """
    if asked:
        _warn_of_more_than_cores(asked, usable_cores())
        return asked
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        return torch.get_num_threads()
    return max(1, min(torch.get_num_threads(), usable_cores() - 1))


@functools.cache
def _warn_of_more_than_cores(asked: int, cores: int) -> None:
    """Once per process."""
    if asked > cores:
        log.warning(
            "%d threads were asked for and this process may use %d cores: they wait for each other, so it is slower "
            "than with %d; --threads 0 chooses.", asked, cores, cores,
        )  # fmt: skip


def threads_beside(device: torch.device) -> int:
    """Threads for work that can be shared out while no model runs: as many as the model leaves, and its own."""
    return max(1, usable_cores() - torch.get_num_threads() + 1) if device.type == "cpu" else 1


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next frame instead of giving it back to the system page by page.

    Every page that is taken anew costs a fault; planes of a frame are as large as those that the frame before freed.
    Under glibc alone; elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for setting, value in ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(ctypes.c_int(setting), ctypes.c_int(value))


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 * 2**20
"""Bytes; larger pieces, such as weights, come from the system and go back to it."""


def cache_folder() -> Path:
    """Where models that were pulled and profiles of runs are kept: FLOWGUIDE_HOME, or the user's cache folder."""
    home = os.environ.get("FLOWGUIDE_HOME")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowguide"


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    query = getattr(torch.cpu, "get_capabilities", None)  # since torch 2.12
    capabilities = query() if query else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def cpu_name() -> str:
    """The CPU's own name, or the architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_line() -> dict[str, Any]:
    """The machine and versions that a result was made with."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
