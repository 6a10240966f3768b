"""A process of one thread that forks runs, some of which end themselves by SIGKILL at a point that is named.

Forking the test process itself is not safe: threads of other tests may hold locks, which the child would wait for.
Each line on standard input is one run as JSON; the number of its process is answered, and its exit code once it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from going_on import Decoded, decoded

POINTS = (
    "os.mkdir segments",
    "os.rename run.json",
    "os.rename 000000.mp4",
    "os.rename 000001.safetensors",
    "os.rename 000000.json",
    "os.rename painted.json",
    "packet 3",
    "os.rename joined.json",
    "os.rename out.mp4",
    "os.rename out.mp4.json",
    "os.rename redone.json",
    "os.remove 000000.mp4",
    "os.remove 000003.safetensors",
)
"""What a run is killed right before: calls of the file system by the name that they are to make or take away, and the
joining of packets. In the order in which a run meets them."""


@dataclass(frozen=True)
class Job:
    """A run to be killed, and what comes out in the end whatever happens to it."""

    clips: Sequence[Path]
    """What is painted; or a source, and what was painted from it and is steadied."""
    options: dict[str, Any]
    frames: Decoded


class KillServer:
    """Starts runs and waits for them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == self._process.pid, "it is ready"

    def start(self, job: Job, output: Path, *, at: str = "") -> int:
        """Resume, or begin, the run of `output` in a process of its own, killed `at` a point; the process."""
        assert self._process.stdin is not None
        request = {"clips": [*map(str, job.clips)], "output": str(output), "options": job.options, "at": at}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def wait(self) -> int:
        """The exit code of the process, negative where a signal ended it."""
        return self._answer()

    def run(self, job: Job, output: Path, *, at: str = "") -> int:
        self.start(job, output, at=at)
        return self.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def killed_at_points(server: KillServer, job: Job, folder: Path) -> None:
    """Kill a run at each of POINTS, gone on with by the next, and check what comes out."""
    output = folder / "out.mp4"
    for point in POINTS:
        assert server.run(job, output, at=point) == -signal.SIGKILL, point
    assert server.run(job, output) == 0
    assert decoded(output) == job.frames
    assert sorted(path.name for path in folder.iterdir()) == ["out.mp4", "out.mp4.json", "out.mp4.run"]


def killed_at_random(server: KillServer, job: Job, folder: Path, kills: int) -> None:
    """Kill runs `kills` times at random moments, each gone on with or begun afresh, and check what comes out."""
    moments, killed, round_number = random.Random(5), 0, 0
    began = time.monotonic()
    assert server.run(job, folder / "out.mp4") == 0
    whole = time.monotonic() - began
    while killed < kills:
        output = folder / str(round_number) / "out.mp4"
        output.parent.mkdir(exist_ok=True)
        process = server.start(job, output)
        time.sleep(moments.uniform(0.0, 1.0) * whole)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        if server.wait() == -signal.SIGKILL:
            killed += 1
        else:
            assert decoded(output) == job.frames
            round_number += 1
    assert server.run(job, output) == 0
    assert decoded(output) == job.frames


def killed_before_each_call(server: KillServer, job: Job, folder: Path) -> int:
    """A run begun afresh for each call of the file system that it makes, killed right before that call, then resumed;
    how many there are."""
    for number in itertools.count(1):
        output = folder / str(number) / "out.mp4"
        output.parent.mkdir()
        code = server.run(job, output, at=f"event {number}")
        if code == 0:
            return number - 1
        assert code == -signal.SIGKILL
        assert server.run(job, output) == 0, number
        assert decoded(output) == job.frames, number
        shutil.rmtree(output.parent)
    raise AssertionError


def kill_before(point: str) -> None:
    """End this process right before it would do what `point` names; "event 17" is its 17th call of the file system."""
    what, _, name = point.partition(" ")
    if what == "packet":
        _kill_at_packet(int(name))
        return
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "os.truncate"):
            return
        touched = str(arguments[1] if event == "os.rename" else arguments[0])
        if what == "event":
            seen += "out.mp4" in touched
            if seen == int(name):
                os.kill(os.getpid(), signal.SIGKILL)
        elif event == what and os.path.basename(touched) == name:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _kill_at_packet(number: int) -> None:
    from flowguide.video import segments

    stored = segments._stored_packets

    def counted(*arguments: Any) -> Iterator[Any]:
        for count, packet in enumerate(stored(*arguments)):
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            yield packet

    segments._stored_packets = counted


def serve() -> None:
    import torch
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import flowguide
    from flowguide.runs.request import Request

    torch.set_num_threads(1)
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        process = os.fork()
        if not process:
            kill_before(wanted["at"])
            try:
                run = flowguide.render if len(wanted["clips"]) == 1 else flowguide.steady_clip
                run(*wanted["clips"], wanted["output"], request=Request(resume=True), **wanted["options"])
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
