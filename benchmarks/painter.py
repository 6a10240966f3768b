"""Settings of the bundled painter on held-out frames: how many evaluations, and a sweep for presets.toml.

    python benchmarks/painter.py quality DATA WORK   all numbers of `flowguide training measure`, 24 frames
    python benchmarks/painter.py few DATA WORK       1 to 6 evaluations at strength 0.5, CFG 2
    python benchmarks/painter.py sweep DATA WORK     strength, steps and CFG for each style

DATA holds clips/, WORK is the folder of the painter's training with the classifier of `flowguide training measure`.
Numbers as in flowguide/training/quality.py, six frames of 256 px, one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import write_result

from flowguide.training.classifier import classify, kept_classifier
from flowguide.training.paths import KINDS
from flowguide.training.quality import (
    SEED,
    gradient_energy,
    held_out_frames,
    load_pipeline,
    low_frequency_correlation,
    measure_painter,
    paint,
)
from flowguide.training.run import BUNDLED
from flowguide.training.stylise import STYLES, layout_noise, stylise

RESULTS = Path(__file__).parent / "results"
FEW: list[dict[str, Any]] = [
    {"strength": 0.5, "steps": 2 * evaluations, "scale": 2.0} for evaluations in (1, 2, 3, 4, 6)
]
SWEEP: list[dict[str, Any]] = [
    {"strength": strength, "steps": round(4 / strength), "scale": scale}
    for strength in (0.4, 0.5, 0.6)
    for scale in (1.5, 2.0, 3.0)
] + [{"strength": 0.5, "steps": 12, "scale": 2.0}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "few", "sweep"))
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--frames", type=int, default=2, help="of each clip")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.what == "quality":
        with tempfile.TemporaryDirectory() as scratch:
            report = measure_painter(chosen.model, chosen.data, chosen.work, Path(scratch) / "quality.json")
        write_result(RESULTS / "painter-quality.json", [report], pixels=256)
        return
    pipeline = load_pipeline(chosen.model)
    classifier = kept_classifier(chosen.work, pipeline.vae)
    sources = np.concatenate(list(held_out_frames(chosen.data, chosen.frames).values()))
    rows: list[dict[str, Any]] = []
    for number, style in enumerate(STYLES, 1):
        true = np.stack([stylise(p, style, layout_noise((SEED, i), *p.shape[:2])) for i, p in enumerate(sources)])
        for settings in FEW if chosen.what == "few" else SWEEP:
            painted = np.stack([paint(pipeline, picture, style, **settings) for picture in sources])
            kinds = classify(classifier, painted)
            low = [low_frequency_correlation(a, b) for a, b in zip(sources, painted, strict=True)]
            rows.append({
                "style": style, **settings, "evaluations": int(settings["steps"] * settings["strength"]),
                "agreement": float((kinds == number).mean()), "taken_for": [KINDS[kind] for kind in kinds],
                "gradient_energy_ratio": gradient_energy(painted) / gradient_energy(true),
                "low_frequency_correlation": float(np.mean(low)),
            })  # fmt: skip
            print({name: value for name, value in rows[-1].items() if name != "taken_for"}, flush=True)
    write_result(RESULTS / f"painter-{chosen.what}.json", rows, frames=len(sources), pixels=256)


if __name__ == "__main__":
    main()
