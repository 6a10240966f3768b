"""Where the time of a frame goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

MODEL_STAGES = ("encode", "unet", "decode")
"""Stages that are the model's own calls; everything else is what flowguide adds."""


class StageClock:
    """Seconds per named stage, on the monotonic clock. Stages do not nest."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started
