"""`flowguide engines`: build, list, check and delete what the runtimes run."""

from __future__ import annotations

import json as json_text
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

engines_app = App(name="engines", help="Build, list, check and delete engines of ONNX, OpenVINO and TensorRT.")

Names = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)]


@engines_app.command(name="build")
def build_engines(
    model: str = "painter",
    /,
    *,
    runtime: str,
    size: str = "512x512",
    batch: int = 1,
    compute_capability: Names = (),
    config: Path | None = None,
    dtype: str = "auto",
    json: bool = False,
) -> None:
    """Build every engine that painting with MODEL needs; those that are there and fresh are left alone.

    Parameters
    ----------
    model
        A name, a folder or a file, as for render.
    runtime
        onnx, openvino, tensorrt or tensorrt-rtx.
    size
        WIDTHxHEIGHT of the frames in pixels.
    batch
        Frames at once.
    compute_capability
        Cards to build for, such as 8.6 8.9 12.0 (tensorrt-rtx needs no card for that). Default: the one that is here.
    config
        TOML file with a [render] table: LoRAs, ControlNets, another autoencoder, sampler and guidance scale count.
    dtype
        float32, float16 or bfloat16. Default: float16 for TensorRT, else as render chooses it.
    json
        As one JSON object.
    """
    from .config import read_toml, render_config
    from .errors import UsageError
    from .machine import choose_device, choose_dtype

    kind = import_module("flowguide.engines.runtime").kind_of(runtime)
    if kind.engine is None:
        raise UsageError(f"The runtime {runtime} runs the network itself; there is nothing to build.")
    width, cross, height = size.partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)) or batch < 1:
        raise UsageError(f"--size is WIDTHxHEIGHT in pixels and --batch at least 1, got {size!r} and {batch}.")
    device = choose_device("auto")
    plan = kind.engine == ".plan"
    if compute_capability and runtime != "tensorrt-rtx":
        raise UsageError(
            f"Only tensorrt-rtx builds for cards that are not here; leave --compute-capability out for {runtime}."
        )
    if plan and device.type == "cpu" and not compute_capability:
        raise UsageError("There is no card here; name those to build for: --compute-capability 8.6 8.9 12.0.")
    precision = choose_dtype("float16" if plan and dtype == "auto" else dtype, device)
    options = render_config({**(read_toml(config) if config else {}), "model": model})
    from .diffusion.planned import planned_networks

    build = import_module("flowguide.engines.build")
    made: list[dict[str, Any]] = []
    for network in planned_networks(options, int(height), int(width), batch, precision, device):
        file = build.engine_file(network if plan else build.in_float32(network), runtime, compute_capability)
        made.append(import_module("flowguide.engines.store").read_entry(file).as_dict())
        if not json:
            print(f"{file}  {made[-1]['size_bytes'] / 2**20:.1f} MiB, built in {made[-1]['seconds']:.1f} s")
    if json:
        _print({"engines": made})


@engines_app.command(name="list")
def list_engines(*, json: bool = False) -> None:
    """Every engine that is there, and whether it is fresh.

    Parameters
    ----------
    json
        As one JSON object.
    """
    _show(_examined(hashes=False), as_json=json)


@engines_app.command(name="check")
def check_engines(*, json: bool = False) -> None:
    """Read every engine and compare hash, version and key; ends with 1 where one is stale.

    Parameters
    ----------
    json
        As one JSON object.
    """
    rows = _examined(hashes=True)
    _show(rows, as_json=json)
    if any(row["stale"] for row in rows):
        raise SystemExit(1)


@engines_app.command(name="prune")
def prune_engines(*, everything: bool = False) -> None:
    """Delete engines that are stale.

    Parameters
    ----------
    everything
        Delete the fresh ones too.
    """
    gone, size = import_module("flowguide.engines.store").prune(everything=everything)
    for name in gone:
        print(name)
    print(f"{len(gone)} engines deleted, {size / 2**20:.1f} MiB")


def _examined(*, hashes: bool) -> list[dict[str, Any]]:
    store = import_module("flowguide.engines.store")
    return [
        {"file": str(file), "size_bytes": file.stat().st_size, "stale": store.why_stale(file, hashes=hashes)}
        for file in store.engines()
    ]


def _show(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _print({"engines": rows})
        return
    for row in rows:
        state = f"stale: {row['stale']}" if row["stale"] else "fresh"
        print(f"{Path(row['file']).name}  {row['size_bytes'] / 2**20:.1f} MiB  {state}")
    if not rows:
        print("No engines yet; flowguide engines build makes them, and render does where one is missing.")


def _print(value: Any) -> None:
    print(json_text.dumps(value, indent=2, ensure_ascii=False))
