"""How exact are the flow estimators, how far can their confidence be believed, and what do they cost?

    python benchmarks/flow.py --textures PICTURES_FOLDER --pairs 40

Pairs of known flow in five classes of difficulty (flowguide/training/flow_scenes.py), in both directions. The layers
are textured with the pictures of a folder, or procedurally where none is given. Rows, one per estimator, measure of
confidence and class: endpoint error, shares of pixels off by more than 1 and 3 px, F1 of the pixels called occluded
(by the learned measure's second score; by confidence below one half otherwise) and of confidence below one half,
expected calibration error of "right within 1 px and visible", area between the sparsification curve and its optimum.
"own" is the confidence that a network gives with its flow. Times are milliseconds of CPU time for one direction: the
flow, and its confidence. With --merge, rows of other estimators that stand in the result file stay; with --times, all
rows stay and only the times are measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from results import write_result
from torch import Tensor

from flowguide.flow import ESTIMATORS, NetworkFlow, PairEstimator
from flowguide.flow.accuracy import Accuracy
from flowguide.flow.confidence import CONFIDENCE
from flowguide.flow.learned import judged
from flowguide.training.flow_scenes import DIFFICULTIES, Pair, from_pictures, make_pair
from flowguide.types import Flow, Frame

NAMES = ("dis:ultrafast", "dis:fast", "dis:medium", "dis-filled", "farneback", "flowguide-flow")
SIZES = {"512x512": (512, 512), "1024x436": (436, 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--textures", type=Path, help="folder of .jpg or .png pictures")
    parser.add_argument("--pairs", type=int, default=40, help="per class of difficulty")
    parser.add_argument("--seed", type=int, default=90_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(NAMES), help="estimators by name")
    parser.add_argument("--confidence", nargs="*", default=list(CONFIDENCE), choices=list(CONFIDENCE))
    parser.add_argument("--merge", action="store_true", help="keep the rows of other estimators in the result file")
    parser.add_argument("--times", action="store_true", help="measure the times of the rows in the result file again")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    made = {name: estimator(name) for name in chosen.only}
    if chosen.times:
        measure_times_again(chosen, made)
        return
    accuracies: dict[tuple[str, str, str], Accuracy] = {}
    for difficulty, pair in pairs(chosen):
        for name, each in made.items():
            forward, backward = flows = each.both(pair.first, pair.second)
            for measure in [*chosen.confidence, *(["own"] if forward.confidence is not None else [])]:
                accuracy = accuracies.setdefault((name, measure, difficulty), Accuracy())
                if measure == "own":
                    accuracy.add(forward, pair.forward, pair.forward_visible)
                    accuracy.add(backward, pair.backward, pair.backward_visible)
                else:
                    add(accuracy, measure, pair, *(flow.uv for flow in flows))
    for (name, measure, _), accuracy in list(accuracies.items()):
        accuracies.setdefault((name, measure, "all"), Accuracy()).merge(accuracy)
    rows = []
    for (name, measure, group), accuracy in accuracies.items():
        row = {"estimator": made[name].name, "confidence": measure, "class": group, **accuracy.row()}
        if group == "all":
            row |= times(made[name], measure) | {"calibration": accuracy.calibration}
        rows.append(row)
    textures = "procedural" if chosen.textures is None else f"pictures of {chosen.textures.name}"
    context: dict[str, Any] = {"pairs_per_class": chosen.pairs, "textures": textures, "seed": chosen.seed}
    if chosen.merge:
        written = json.loads(chosen.out.read_text())
        if any(written[key] != value for key, value in context.items()):
            raise SystemExit(f"{chosen.out} was measured on other pairs; its rows cannot stand beside these.")
        new = {row["estimator"] for row in rows}
        rows = [row for row in written["rows"] if row["estimator"] not in new] + rows
        context["earlier_commands"] = earlier(written)
    write_result(chosen.out, rows, **context)


def measure_times_again(chosen: argparse.Namespace, made: dict[str, PairEstimator]) -> None:
    """The rows as they are, with new times."""
    written = json.loads(chosen.out.read_text())
    named = {each.name: each for each in made.values()}
    for row in written["rows"]:
        if row["class"] == "all" and row["estimator"] in named:
            row |= times(named[row["estimator"]], row["confidence"])
    context = {key: written[key] for key in ("pairs_per_class", "textures", "seed")}
    write_result(chosen.out, written["rows"], **context, earlier_commands=earlier(written))


def earlier(written: dict[str, Any]) -> list[str]:
    """The commands whose rows stand in a result file."""
    return [*written.get("earlier_commands", []), written["command"]]


def estimator(name: str) -> PairEstimator:
    kind, _, argument = name.partition(":")
    if kind == NetworkFlow.NAME:
        return NetworkFlow()
    return ESTIMATORS[kind](*([argument] if argument else []), confidence=None)


def add(accuracy: Accuracy, measure: str, pair: Pair, forward: Tensor, backward: Tensor) -> None:
    """Both directions of a pair."""
    directions = (
        (pair.first, pair.second, forward, backward, pair.forward, pair.forward_visible),
        (pair.second, pair.first, backward, forward, pair.backward, pair.backward_visible),
    )
    for at, to, uv, back, truth, visible in directions:
        confidence, called = measured(measure, at, to, uv, back)
        accuracy.add(Flow(uv, at.index, to.index, confidence), truth, visible, called)


def measured(measure: str, at: Frame, to: Frame, uv: Tensor, back: Tensor) -> tuple[Tensor, Tensor | None]:
    """Confidence, and which pixels are called visible where the measure says so."""
    if measure != "learned":
        return CONFIDENCE[measure](at, to, uv, back), None
    confidence, visible = judged(at, to, uv, back)
    return confidence, visible >= 0.5


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


def times(measured: PairEstimator, measure: str) -> dict[str, float]:
    """Median milliseconds of CPU time of one flow and of its confidence, per size."""
    found = {}
    for name, size in SIZES.items():
        pair = make_pair("large", 0, size)
        uv, back = measured.displacements(pair.first, pair.second)
        found[f"cpu_ms_flow_{name}"] = milliseconds(partial(measured.displacement, pair.first, pair.second))
        if measure == "own":
            found[f"cpu_ms_confidence_{name}"] = 0.0
            continue
        confidence = partial(CONFIDENCE[measure], pair.first, pair.second, uv, back)
        found[f"cpu_ms_confidence_{name}"] = milliseconds(confidence)
    return found


def milliseconds(call: Callable[[], Tensor], repeats: int = 15) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return 1000 * sorted(seconds)[repeats // 2]


if __name__ == "__main__":
    main()
