"""How long TensorRT-RTX engines take to build on a machine without a GPU, and how large they are.

    python benchmarks/engine_build.py [--size 256] [--cards 8.6 8.9 12.0]

The painter's UNet and tiny autoencoder in float16 and flowguide's own flow network in float32, each for all cards, into
an empty folder, as `flowguide engines build` does it: on the clock, and in processor time of all processes, which a
shared machine disturbs less.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from results import write_result

from flowguide.config import render_config
from flowguide.diffusion.planned import planned_networks
from flowguide.diffusion.runtimes import network_of
from flowguide.flow.flowguide_flow import OUTPUTS, PlainFlow, shipped_network

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--cards", nargs="*", default=["8.6", "8.9", "12.0"])
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    build: Any = importlib.import_module("flowguide.engines.build")
    store: Any = importlib.import_module("flowguide.engines.store")
    with tempfile.TemporaryDirectory() as home:
        os.environ["FLOWGUIDE_HOME"] = home
        began, load, cpu_began = time.perf_counter(), os.getloadavg()[0], sum(os.times()[:4])
        picture = torch.zeros(1, 3, chosen.size, chosen.size)
        flow = network_of("flow", PlainFlow(shipped_network(CPU)), {"at": picture, "to": picture}, OUTPUTS)
        networks = [*planned_networks(render_config(), chosen.size, chosen.size, 1, torch.float16, CPU), flow]
        files = build.engine_files(networks, "tensorrt-rtx", tuple(chosen.cards))
        seconds = time.perf_counter() - began
        cpu_seconds = sum(os.times()[:4]) - cpu_began
        entries = [store.read_entry(file) for file in files]
        rows = [
            {"network": entry.key.network, "seconds": entry.seconds, "mib": entry.size_bytes() / 2**20}
            for entry in entries
        ]
    for row in rows:
        print(row)
    print(f"{seconds:.1f} s together on the clock, {cpu_seconds:.1f} s of processor time, load {load:.1f}")
    out = Path("benchmarks/results/engine-build-cpu.json")
    write_result(out, rows, seconds=seconds, cpu_seconds=cpu_seconds, load=load, size=chosen.size, cards=chosen.cards)


if __name__ == "__main__":
    main()
