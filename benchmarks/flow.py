"""How exact are the flow estimators, how far can their confidence be believed, and what do they cost?

    python benchmarks/flow.py --textures PICTURES_FOLDER --pairs 40

Pairs of known flow in five classes of difficulty (flowguide/training/flow_scenes.py), in both directions. The layers
are textured with the pictures of a folder, or procedurally where none is given. Rows: endpoint error, shares of pixels
off by more than 1 and 3 px, F1 of occlusion called where confidence < 1/2 (the learned measure's second score, where it
is asked; `occlusion_f1_of_confidence` is that of its confidence), expected calibration error of "right within
1 px and visible", area between the sparsification curve and its optimum, and at 512x512 and 1024x436 milliseconds for
one flow alone and for both directions with confidence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from results import write_result

from flowguide.flow import ESTIMATORS, PairEstimator
from flowguide.flow.accuracy import Accuracy
from flowguide.training.flow_scenes import DIFFICULTIES, Pair, from_pictures, make_pair

CASES: dict[str, tuple[str, dict[str, str]]] = {
    "dis-ultrafast": ("dis", {"preset": "ultrafast"}),
    "dis-fast": ("dis", {"preset": "fast"}),
    "dis-medium": ("dis", {"preset": "medium"}),
    "dis-medium, forward-backward check": ("dis", {"preset": "medium", "confidence": "forward-backward"}),
    "dis-medium, learned": ("dis", {"preset": "medium", "confidence": "learned"}),
    "farneback": ("farneback", {}),
    "farneback, learned": ("farneback", {"confidence": "learned"}),
}
SIZES = {"512x512": (512, 512), "1024x436": (436, 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, help="folder of .jpg or .png pictures")
    parser.add_argument("--pairs", type=int, default=40, help="per class of difficulty")
    parser.add_argument("--seed", type=int, default=90_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    made: dict[str, PairEstimator] = {}
    for case in chosen.only:
        name, options = CASES[case]
        made[case] = ESTIMATORS[name](**options)
    accuracies = {(name, group): Accuracy() for name in made for group in (*DIFFICULTIES, "all")}
    for difficulty, pair in pairs(chosen):
        for name, flows in ((name, each.both(pair.first, pair.second)) for name, each in made.items()):
            for group in (difficulty, "all"):
                accuracies[name, group].add(flows[0], pair.forward, pair.forward_visible)
                accuracies[name, group].add(flows[1], pair.backward, pair.backward_visible)
    times = {name: milliseconds(each) for name, each in made.items()}
    rows = []
    for (name, group), accuracy in accuracies.items():
        row = {"estimator": name, "class": group, **accuracy.row()}
        if group == "all":
            row |= times[name] | {"calibration": accuracy.calibration}
        rows.append(row)
    textures = "procedural" if chosen.textures is None else f"pictures of {chosen.textures.name}"
    write_result(chosen.out, rows, pairs_per_class=chosen.pairs, textures=textures, seed=chosen.seed)


def pairs(chosen: argparse.Namespace) -> Iterator[tuple[str, Pair]]:
    """Every pair of the set with its class, half of them square and half wide."""
    texture = None
    if chosen.textures is not None:
        found = sorted(path for path in chosen.textures.iterdir() if path.suffix in (".jpg", ".png"))
        texture = from_pictures(found)
    for number in range(chosen.pairs):
        for difficulty in DIFFICULTIES:
            size = list(SIZES.values())[number % 2]
            yield difficulty, make_pair(difficulty, number, size, seed=chosen.seed, texture=texture)


def milliseconds(measured: PairEstimator, repeats: int = 9) -> dict[str, float]:
    """Median time of one flow alone, and of both directions with confidence, per size."""
    found = {}
    for name, size in SIZES.items():
        pair = make_pair("large", 0, size)
        for kind, call in (("flow", measured.displacement), ("both", measured.both)):
            seconds = []
            for _ in range(repeats + 1):
                began = time.perf_counter()
                call(pair.first, pair.second)
                seconds.append(time.perf_counter() - began)
            found[f"ms_{kind}_{name}"] = 1000 * sorted(seconds[1:])[repeats // 2]
    return found


if __name__ == "__main__":
    main()
