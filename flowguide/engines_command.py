"""`flowguide engines`: build, list, check and delete what the runtimes run."""

from __future__ import annotations

import json as json_text
import logging
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from .errors import UsageError

if TYPE_CHECKING:
    from .config import RenderConfig

log = logging.getLogger("flowguide.engines")

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
        WIDTHxHEIGHT of the frames in pixels; or a range, MIN..MAX or MIN..BEST..MAX, such as 256x256..512x512..768x768:
        one engine for all of it, slower than one for a size.
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
    from .machine import choose_device, choose_dtype

    kind = import_module("flowguide.engines.runtime").kind_of(runtime)
    if kind.engine is None:
        raise UsageError(f"The runtime {runtime} runs the network itself; there is nothing to build.")
    if batch < 1:
        raise UsageError(f"--batch is at least 1, got {batch}.")
    sizes = [_size(part, size) for part in size.split("..")]
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
    build = import_module("flowguide.engines.build")
    made: list[dict[str, Any]] = []
    networks = _planned(options, sizes, batch, precision, device)
    wanted = networks if plan else [build.in_float32(network) for network in networks]
    for file in build.engine_files(wanted, runtime, compute_capability):
        made.append(import_module("flowguide.engines.store").read_entry(file).as_dict())
        if not json:
            print(f"{file}  {made[-1]['size_bytes'] / 2**20:.1f} MiB, built in {made[-1]['seconds']:.1f} s")
    if json:
        _print({"engines": made})


def _size(text: str, whole: str) -> tuple[int, int]:
    """(width, height) of WIDTHxHEIGHT."""
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(f"--size is WIDTHxHEIGHT in pixels, or a range of them MIN..BEST..MAX, got {whole!r}.")
    return int(width), int(height)


def _planned(options: RenderConfig, sizes: list[tuple[int, int]], batch: int, precision: Any, device: Any) -> list[Any]:
    """The networks for one size, or for a range of two or three."""
    from .diffusion.planned import planned_networks

    if len(sizes) > 3 or any(a > b for least, most in pairwise(sizes) for a, b in zip(least, most, strict=True)):
        raise UsageError("A range of sizes is MIN..MAX or MIN..BEST..MAX, none smaller than the one before it.")
    planned = []
    for width, height in sizes:
        networks = planned_networks(options, height, width, batch, precision, device)
        used = next(network.inputs["pictures"].shape[2:] for network in networks if "pictures" in network.inputs)
        if used != (height, width):
            log.warning(
                "Frames of %dx%d are padded to %dx%d, whole cells of the model; the engines are for that size.",
                *(width, height, used[1], used[0]),
            )
        planned.append(networks)
    if len(planned) == 1:
        return planned[0]
    best = planned[1] if len(planned) == 3 else planned[-1]
    ranged: list[Any] = import_module("flowguide.engines.network").ranged(planned[0], best, planned[-1])
    return ranged


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
