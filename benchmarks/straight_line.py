"""Is a guided render steadier, and as sharp? Real clips, guided and not, in one run.

    python benchmarks/straight_line.py CLIPS_FOLDER --frames 48

Every row: E_warp at lags 1 and 8 with flow and mask of the source, by an estimator that did not guide (docs/math.md,
section 8), sharpness against the unguided render. The bar is the rows under
per-frame noise; a row with nothing to steady says so.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from results import write_result

import flowguide
from flowguide.metrics import Report, measure
from flowguide.runs.clip import RenderReport
from flowguide.video import ClipReader

CLIPS = {
    "flower.mp4": 0.0,
    "people-static-camera.mp4": 9.0,
    "hand-gesture.mkv": 0.0,
    "big-buck-bunny-480p.mp4": 4.0,
}
"""Clip -> second at which the measured part begins: one shot in which something moves, past a fade."""

SETTINGS: dict[str, Any] = {"prompt": "oil painting", "size": "384", "strength": 0.5, "steps": 8, "guidance_scale": 2.0}
METRIC_ESTIMATOR, GUIDING_ESTIMATOR = "farneback", "dis"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with the clips")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--only", nargs="*", default=list(CLIPS), help="names of clips")
    parser.add_argument("--noise", nargs="*", default=["per-frame", "fixed"])
    parser.add_argument("--prompt", default=SETTINGS["prompt"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/straight-line-cpu.json"))
    parser.add_argument("--keep", type=Path, default=None, help="folder to keep the painted clips in")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    folder = chosen.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(chosen, folder, name, noise) for name in chosen.only for noise in chosen.noise]
    write_result(chosen.out, rows, settings={**SETTINGS, "prompt": chosen.prompt, "frames": chosen.frames})


def row(chosen: argparse.Namespace, folder: Path, name: str, noise: str) -> dict[str, Any]:
    source = chosen.clips / name
    options = {**SETTINGS, "prompt": chosen.prompt, "noise": noise, "max_frames": chosen.frames,
               "start_seconds": CLIPS[name], "audio": False, "threads": chosen.threads, "crf": 4}  # fmt: skip
    stem = f"{source.stem}-{noise}-{chosen.prompt.replace(' ', '-')}"
    reports = {
        kind: flowguide.render(
            source,
            folder / f"{stem}-{kind}.mp4",
            guidance=kind == "guided",
            request=flowguide.Request(overwrite=True),
            **options,
        )
        for kind in ("unguided", "guided")
    }
    size = ClipReader(reports["guided"].output).info.size
    part = {"size": size, "start_seconds": CLIPS[name], "max_frames": chosen.frames}
    report = _measured(source, part, reports, METRIC_ESTIMATOR)
    before, after, floor = report["unguided"], report["guided"], report["source"]
    by_guide = _measured(source, part, reports, GUIDING_ESTIMATOR)
    result: dict[str, Any] = {"clip": name, "noise": noise, "flow_of_metric": report.estimator, "frames": report.frames}
    for lag in (1, 8):
        errors = [m.warp_error[lag].l1 for m in (floor, before, after)]
        result[f"e_warp_{lag}"] = dict(zip(("source", "unguided", "guided"), errors, strict=True))
        result[f"ratio_{lag}"] = _ratio(report, lag)
        result[f"ratio_{lag}_by_{by_guide.estimator}"] = _ratio(by_guide, lag)
    result |= {"sharpness": after.sharpness, "psnr_db": after.psnr_db, "ssim": after.ssim, "note": before.note,
               "fps": reports["guided"].frames_per_second}  # fmt: skip
    print(result, flush=True)
    return result


def _measured(source: Path, part: dict[str, Any], reports: dict[str, RenderReport], estimator: str) -> Report:
    with (
        ClipReader(source, **part) as original,
        ClipReader(reports["unguided"].output) as unguided,
        ClipReader(reports["guided"].output) as guided,
    ):
        clips = {"unguided": unguided, "guided": guided}
        return measure(original, clips, estimator=estimator, unguided="unguided")


def _ratio(report: Report, lag: int) -> float | None:
    before, after = (report[name].warp_error[lag].l1 for name in ("unguided", "guided"))
    return after / before if before and after is not None else None


if __name__ == "__main__":
    main()
