"""How often a program asks the C library for 4096 bytes or more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COUNTER = """
#include <atomic>
#include <cstddef>
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
static std::atomic<long> large{0};
long large_allocations() { return large; }
static size_t counted(size_t size) { large += size >= 4096; return size; }
void* malloc(size_t size) { return __libc_malloc(counted(size)); }
void* calloc(size_t count, size_t size) { counted(count * size); return __libc_calloc(count, size); }
void* realloc(void* p, size_t size) { return __libc_realloc(p, counted(size)); }
void* memalign(size_t to, size_t size) { return __libc_memalign(to, counted(size)); }
void* aligned_alloc(size_t to, size_t size) { return __libc_memalign(to, counted(size)); }
int posix_memalign(void** p, size_t to, size_t size) {
  *p = __libc_memalign(to, counted(size));
  return *p ? 0 : 12;
}
}
"""
COUNTS = """
import ctypes, torch

torch.set_num_threads(1)
large = ctypes.CDLL(None).large_allocations
large.restype = ctypes.c_long
began = large()
torch.empty(4096)
print("an allocation is", large() - began)


def count(name, call):
    for _ in range(3):
        call()
    began = large()
    for _ in range(5):
        call()
    print(name, large() - began)
"""


def counts_allocations(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that calls `allocations`."""
    for mark in (
        pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts allocations of the GNU C library"),
        pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
    ):
        test = mark(test)
    return test


def allocations(program: str, folder: Path, **environment: str) -> dict[str, int]:
    """Run `program`, which calls `count(name, call)`: by name, what five calls allocate after three others."""
    source, counter = folder / "counter.cpp", folder / "counter.so"
    source.write_text(COUNTER, encoding="utf-8")
    subprocess.run(["c++", "-O1", "-shared", "-fPIC", source, "-o", counter], check=True)
    settings = os.environ | {"LD_PRELOAD": str(counter)} | environment
    command = [sys.executable, "-c", COUNTS + program]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sees, *lines = done.stdout.splitlines()
    assert sees == "an allocation is 1"
    counted = [line.rsplit(" ", 1) for line in lines]
    names = [name for name, _ in counted]
    assert len(set(names)) == len(names), names
    return {name: int(number) for name, number in counted}
