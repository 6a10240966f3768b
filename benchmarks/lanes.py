"""Several rows in one model call: lanes against one shot after the other, the step-aligned batch against one frame
after the other of the same rule.

    python benchmarks/lanes.py [--size 256] [--frames 3] [--rounds 3] [--threads 1]
        [--lanes eager torch openvino] [--aligned eager torch]
    python benchmarks/lanes.py --clips CLIPS_FOLDER --frames 25

The painter in bfloat16 with its default settings (8 steps at strength 0.5: 4 calls under classifier-free guidance),
four shots of a made film (step-aligned: one as long as all four), whole frames: flow, guidance, noise, model and paste.
Both sides by turns in one process; CPU seconds of all threads count, for a shared machine disturbs wall time.
`eager` calls diffusers' own modules, `torch` is
the default runtime. `largest_difference` between both sides is measured in float32, pictures in [-1, 1].

With --clips: how steady the step-aligned rule is beside `previous` and no guidance, as in benchmarks/guidance.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from guidance import LAGS, read
from results import write_result

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.runtimes import Runtimes
from flowguide.metrics import measure
from flowguide.renderer import Renderer
from flowguide.shot_lanes import ShotLanes
from flowguide.step_aligned import StepAlignedFrames
from flowguide.synthetic import demo
from flowguide.types import Frame

CPU = torch.device("cpu")
LANES = 4
SHOTS = (0, 28, 48, 76)
"""Where the made film's shots begin."""
SIDES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "4 lanes": ({"lanes": 1}, {"lanes": LANES}),
    "step-aligned": ({"at_once": 1, "strategy": "step-aligned"}, {"strategy": "step-aligned"}),
}
"""One row at a time, and several."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--frames", type=int, default=3, help="of each shot")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lanes", nargs="*", default=["eager", "torch", "openvino"], help="runtimes")
    parser.add_argument("--aligned", nargs="*", default=["eager", "torch"], help="runtimes")
    parser.add_argument("--clips", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=["flower.mp4", "hand-gesture.mkv", "people-static-camera.mp4"])
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    if chosen.clips is not None:
        rows = [steadiness(name, read(chosen, name)) for name in chosen.only]
        write_result(Path("benchmarks/results/step-aligned-steadiness.json"), rows, frames=chosen.frames)
        return
    for name, runtimes, film in (
        ("4 lanes", chosen.lanes, made_film(chosen.size, chosen.frames)),
        ("step-aligned", chosen.aligned, made_film(chosen.size, LANES * chosen.frames)[: LANES * chosen.frames]),
    ):
        rows = [compared(name, runtime, film, chosen.rounds) for runtime in runtimes]
        if rows:
            context = {"size": chosen.size, "frames": len(film), "rounds": chosen.rounds, "threads": chosen.threads}
            write_result(Path(f"benchmarks/results/{name.replace('4 ', '')}-cpu.json"), rows, **context)


def made_film(size: int, frames: int) -> list[Frame]:
    whole = list(demo(size=(size, size), frames=96).frames())
    taken = [whole[start + place] for start in SHOTS for place in range(frames)]
    return [Frame(frame.rgb, index, index, frame.time_base) for index, frame in enumerate(taken)]


def compared(name: str, runtime: str, film: list[Frame], rounds: int) -> dict[str, Any]:
    """Several rows against one."""
    one, many = SIDES[name]
    exact = [painted(loaded(runtime, torch.float32), film[:8], side)[0] for side in (one, many)]
    away = max(float((a - b).abs().max()) for a, b in zip(*exact, strict=True))
    checkpoint = loaded(runtime, torch.bfloat16)
    for side in (one, many):
        painted(checkpoint, film[:5], side)
    seconds = [[painted(checkpoint, film, side)[1] for side in (one, many)] for _ in range(rounds)]
    ratios = [alone / together for alone, together in seconds]
    row = {
        "runtime": runtime, "what": name, "speed_over_one": statistics.median(ratios), "spread": sorted(ratios),
        "cpu_ms_per_frame": [1000 * statistics.median(side) / len(film) for side in zip(*seconds, strict=True)],
        "largest_difference": away,
    }  # fmt: skip
    print(row, flush=True)
    return row


def loaded(runtime: str, dtype: torch.dtype) -> Checkpoint:
    config = render_config(runtime="torch" if runtime == "eager" else runtime)
    checkpoint = load_checkpoint("painter", dtype, CPU, config)
    if runtime == "eager":
        checkpoint.use(Runtimes("torch", CPU, dtype))
    return checkpoint


def painted(checkpoint: Checkpoint, film: list[Frame], side: dict[str, Any]) -> tuple[list[torch.Tensor], float]:
    """The pictures, and the CPU seconds of all threads that they took."""
    options = {"noise": "per-frame", **side}
    at_once = options.pop("at_once", None)
    config = render_config(options)
    renderer = (ShotLanes if config.lanes > 1 else Renderer)(config, checkpoint=checkpoint)
    if isinstance(renderer._later, StepAlignedFrames):
        renderer._later._at_once = at_once
    began = time.process_time()
    pictures = [styled.picture.clone() for styled in renderer(film)]
    return pictures, time.process_time() - began


def steadiness(name: str, source: list[Frame]) -> dict[str, Any]:
    sides: dict[str, dict[str, Any]] = {
        "unguided": {"guidance": False}, "previous": {}, "step-aligned": {"strategy": "step-aligned"},
    }  # fmt: skip
    clips = {
        side: [styled.frame() for styled in Renderer(render_config(noise="per-frame", **options))(source)]
        for side, options in sides.items()
    }
    report = measure(source, clips, lags=LAGS, estimator="farneback", unguided="unguided")
    row: dict[str, Any] = {"clip": name, "flow": "farneback", "note": report["unguided"].note}
    for side in sides:
        error = report[side].warp_error
        row[side] = {f"warp_error_{lag}": error[lag].l1 for lag in LAGS} | {"sharpness": report[side].sharpness}
    row["source"] = {f"warp_error_{lag}": report["source"].warp_error[lag].l1 for lag in LAGS}
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
