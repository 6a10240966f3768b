"""Room on the disk, looked at before it runs out."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import FlowguideError

SPARE_BYTES = 1 << 20
"""Left for records and for everyone else."""


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raise FlowguideError where the disk of `folder` has less than `needed_bytes` and some spare left."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise FlowguideError(
            f"The disk of {folder} is nearly full: {told(free)} are free and the next step needs "
            f"{told(needed_bytes + SPARE_BYTES)}; make room."
        )


def told(count: int) -> str:
    """`count` bytes for people: '1.2 GB'."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
