"""What do the operations cost, beside the best alternatives at hand, in one run?

    python benchmarks/ops.py                      CPU: cv2.remap, swscale (PyAV), the eager torch reference
    python benchmarks/ops.py --device cuda        GPU: eager torch, torch.compile (512x512), the device's copy bandwidth

Contestants take turns, so that a busy machine slows them alike. Times are milliseconds: the median, the
10th and 90th percentile, the least; `times_faster` is the contestant's median divided by the operation's, and
`least_` and `processor_` say the same of the least times and of the processor time of all threads. `bytes` is the least
that must move, every input read and every output written once; `share_of_copy` is the rate at which it moves beside
that of a plain copy of 512 MB in the same run. For the eager reference every tensor that an operator reads or writes is
counted: `times_the_bytes` is that over the least. `faults` are page faults per call, 0 when nothing is allocated.
"""

from __future__ import annotations

import argparse
import inspect
import os
import resource
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's idle threads spin beside the next contestant

import torch
from results import write_result
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowguide import dispatch, ops, reference
from flowguide.machine import machine_line

Call = Callable[[], Any]
SIZES = {"512x512": (512, 512), "1920x1080": (1080, 1920)}
COMPILED = "512x512"
PAGE = Path("docs/operations.md")


class Traffic(TorchDispatchMode):
    """Counts what every operator reads and writes, and the operators that do; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        touched = list(tensors((args, kwargs, result)))
        if not func.is_view and func._schema.name not in ("aten::empty", "aten::detach"):
            self.bytes += sum(t.numel() * t.element_size() for t in touched)
            self.kernels += 1
        return result


def tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from tensors(entry)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def smooth_flow(n: int, height: int, width: int, device: str, size_px: float = 4.0) -> Tensor:
    coarse = torch.randn(n, 2, height // 32 + 2, width // 32 + 2, generator=torch.Generator().manual_seed(1))
    field = torch.nn.functional.interpolate(coarse * size_px / 2, (height, width), mode="bicubic")
    return (field + size_px).contiguous().to(device)


def cases(height: int, width: int, n: int, device: str, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """operation and variant -> the operation's name and arguments."""

    def picture(*shape: int) -> Tensor:
        return (torch.rand(shape) * 2 - 1).to(device, dtype)

    image, source = picture(n, 3, height, width), picture(n, 3, height, width)
    flow = smooth_flow(n, height, width, device)
    confidence = (torch.rand(n, height, width) > 0.2).float().to(device)
    rows, columns = height // 8, width // 8
    latents = [torch.randn(n, 4, rows, columns).to(device, dtype) for _ in range(4)]
    weight = torch.rand(n, rows, columns).to(device)
    noise = [torch.randn(n, 4, rows * 8, columns * 8).to(device) for _ in range(2)]
    rgb = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8).to(device)
    luma = torch.randint(16, 236, (n, height, width), dtype=torch.uint8).to(device)
    chroma = torch.randint(16, 240, (n, height // 2, width // 2, 2), dtype=torch.uint8).to(device)
    row = torch.tensor([[1.4, -1.0, 0.8, 0.2, 0, 0, 0.7, 2.0, 0]] * n).to(device)
    step = {"x": latents[0], "model_output": latents[1], "model_output_uncond": latents[2], "k0": latents[3]}
    both = {"source_at": source, "source_to": source}
    return {
        "warp bilinear": {"name": "warp", "image": image, "flow": flow},
        "warp bicubic": {"name": "warp", "image": image, "flow": flow, "mode": "bicubic"},
        "predict": {"name": "predict", "reference": image, "flow": flow, "flow_back": -flow},
        "predict with sources": {"name": "predict", "reference": image, "flow": flow, "flow_back": -flow, **both},
        "compose": {"name": "compose", "flow_ab": flow, "flow_bc": flow},
        "composite of 3": {
            "name": "composite",
            "priors": torch.stack([image] * 3, 1),
            "confidences": torch.stack([confidence] * 3, 1),
        },
        "fill": {"name": "fill", "prior": image, "confidence": confidence},
        "guided_step": {"name": "guided_step", "coefficients": row, "weight": weight, **step},
        "carry_noise": {"name": "carry_noise", "noise": noise[0], "flow": flow, "fresh": noise[1]},
        "paste": {"name": "paste", "generated": image, "prior": source, "confidence": confidence},
        "paste multiband": {
            **{"name": "paste", "generated": image, "prior": source, "confidence": confidence, "rule": "multiband"}
        },
        "to_model rgb": {"name": "to_model", "surface": rgb, "dtype": dtype},
        "to_model nv12": {"name": "to_model", "surface": luma, "chroma": chroma, "dtype": dtype},
        "from_model rgb": {"name": "from_model", "image": image},
        "from_model nv12": {"name": "from_model", "image": image, "layout": "nv12"},
    }


def contestants(case: str, arguments: dict[str, Any]) -> dict[str, Call]:
    """What else does this on the CPU: OpenCV for warps, swscale for colour."""
    import av
    import cv2
    import numpy as np

    if case.startswith(("warp", "predict")):
        flow = arguments["flow"][0]
        height, width = flow.shape[1:]
        picture = (
            arguments["image" if case.startswith("warp") else "reference"][0].permute(1, 2, 0).contiguous().numpy()
        )
        map_x, map_y = (torch.arange(width) + flow[0]).numpy(), (torch.arange(height)[:, None] + flow[1]).numpy()
        target, border = np.empty_like(picture), cv2.BORDER_REPLICATE
        made = {"cv2.remap linear": lambda: cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, target, border)}
        if "bicubic" in case:
            made["cv2.remap cubic"] = lambda: cv2.remap(picture, map_x, map_y, cv2.INTER_CUBIC, target, border)
        return made
    if case.startswith(("to_model", "from_model")):
        height, width = (arguments.get("surface", arguments.get("image"))).shape[-2:]
        there = case.startswith("to_model")
        format_ = "nv12" if there else "rgb24"
        shape = (height * 3 // 2, width) if there else (height, width, 3)
        frame = av.VideoFrame.from_ndarray(np.random.randint(16, 235, shape, dtype=np.uint8), format=format_)
        reformatter = av.video.reformatter.VideoReformatter()
        target_format = "rgb24" if there else "nv12"
        return {f"swscale {format_} to {target_format}": lambda: reformatter.reformat(frame, format=target_format)}
    return {}


def reference_call(name: str, arguments: dict[str, Any]) -> Call:
    """The reference itself, without the public function's checks."""
    public = inspect.signature(getattr(ops, name)).parameters
    function = getattr(reference, name)
    values = {p: arguments.get(p, public[p].default) for p in inspect.signature(function).parameters}
    if name == "predict":
        values["settings"] = ops.ConfidenceSettings()
    if "size" in values:
        values["size"] = tuple(arguments.get("surface", arguments.get("image")).shape[-2:])
    return lambda: function(**values)


def timed(calls: dict[str, Call], seconds: float, device: str) -> dict[str, list[float]]:
    """Milliseconds of each call. All take three turns; then those of similar speed take turns until the time is up.

    On a GPU a turn is twenty calls in a row.
    """
    once = turn_on_gpu if device == "cuda" else turn
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(3):
        for name, call in calls.items():
            taken[name].append(once(call))
    fastest = min(min(times) for times in taken.values())
    similar = [name for name, times in taken.items() if min(times) < 10 * fastest]
    taken |= {name: [] for name in similar}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[similar[0]]) < 9:
        for name in similar:
            taken[name].append(once(calls[name]))
    return taken


def turn(call: Call) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def turn_on_gpu(call: Call, repeats: int = 20) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / repeats


def summary(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)

    def at(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return {"median": at(0.5), "p10": at(0.1), "p90": at(0.9), "least": ordered[0], "runs": len(ordered)}


def page_faults(call: Call, repeats: int = 20) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / repeats


def processor_ms(call: Call, repeats: int = 15) -> float:
    """Least milliseconds of processor time, all threads: what a busy machine disturbs least."""
    least = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        call()
        least = min(least, time.process_time() - began)
    return 1000 * least


def launches(call: Call) -> int | None:
    """GPU kernels of one call, copies and fills not counted; None where the driver lets nothing be profiled."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    events = [event.name for event in seen.events() if event.device_type == DeviceType.CUDA]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in events) or None


def compiled(eager: Call) -> Call | None:
    """The reference under torch.compile, or None, with a line that says why, where that fails."""
    call = torch.compile(eager)
    try:
        call()
    except Exception as error:
        print(f"  torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}")
        return None
    return call


def measured(
    case: str, size: str, arguments: dict[str, Any], device: str, seconds: float, copied: float
) -> dict[str, Any]:
    """One row of the result; `copied` is the copy bandwidth in gigabytes per second."""
    arguments = dict(arguments)
    name = arguments.pop("name")
    operation = getattr(ops, name)
    taken = ops.resolve(name, device)
    out = operation(**arguments)
    eager = reference_call(name, arguments)
    calls: dict[str, Call] = {"operation": lambda: operation(**arguments, out=out), "eager torch": eager}
    with Traffic() as traffic:
        eager()
    if device == "cpu":
        calls |= contestants(case, arguments)
    else:
        by_compiler = compiled(eager) if size == COMPILED else None  # which takes a while, so at one size
        if by_compiler is not None:
            calls["torch.compile"] = by_compiler
        for other in ("triton", "cuda"):
            if other != taken and dispatch.missing(name, other) is None:
                calls[other] = lambda other=other: operation(**arguments, out=out, implementation=other)
    taken_ms = timed(calls, seconds, device)
    least_bytes = sum(t.numel() * t.element_size() for t in tensors([list(arguments.values()), out]))
    own = summary(taken_ms.pop("operation"))
    row = {
        **{"operation": name, "case": case, "size": size, "implementation": taken, "ms": own, "bytes": least_bytes},
        "gigabytes_per_second": least_bytes / own["median"] / 1e6,
        "share_of_copy": least_bytes / own["median"] / 1e6 / copied,
        **{"eager_bytes": traffic.bytes, "eager_kernels": traffic.kernels},
        "times_the_bytes": traffic.bytes / least_bytes,
        "against": {other: compared(summary(times), own) for other, times in taken_ms.items()},
    }
    if device == "cpu":
        row["faults"] = page_faults(calls["operation"])
        processor = {other: processor_ms(call) for other, call in calls.items() if other != "eager torch"}
        row["processor_ms"] = processor.pop("operation")
        for other, ms in processor.items():
            row["against"][other] |= {"processor_ms": ms, "processor_times_faster": ms / row["processor_ms"]}
    else:
        row["launches"] = launches(calls["operation"])
    ratios = ", ".join(f"{other} {value['times_faster']:.2f}x" for other, value in row["against"].items())
    print(f"{size:14s} {case:22s} {taken:9s} {own['median']:9.3f} ms   {ratios}", flush=True)
    return row


def compared(other: dict[str, float], own: dict[str, float]) -> dict[str, float]:
    """A contestant's times and how many times faster the operation is, by medians and by least times."""
    by = {"times_faster": other["median"] / own["median"], "least_times_faster": other["least"] / own["least"]}
    return other | by


def copy_bandwidth(device: str) -> float:
    """Gigabytes per second of a plain copy of 512 MB, read and write counted."""
    source = torch.empty(2**27, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    taken = timed({"copy": lambda: target.copy_(source)}, 1.0, device)["copy"]
    return 2 * source.numel() * 4 / min(taken) / 1e6


def run(
    device: str, dtype: torch.dtype, batch: int, seconds: float, copied: float, sizes: dict[str, tuple[int, int]]
) -> list[Any]:
    rows = []
    for size, (height, width) in sizes.items():
        for case, arguments in cases(height, width, batch, device, dtype).items():
            try:
                rows.append(measured(case, size, arguments, device, seconds, copied))
            except torch.OutOfMemoryError:
                print(f"{size:14s} {case:22s} not measured: this device has too little memory", flush=True)
                rows.append({"case": case, "size": size, "not_measured": "too little memory"})
    return rows


def page(rows: list[dict[str, Any]], copied: float) -> str:
    """docs/operations.md."""
    text = (
        f"On the CPU: {machine_line()['cpu']}, two threads, float32, one picture. Written by "
        "`python benchmarks/ops.py` with [ops-cpu.json](../benchmarks/results/ops-cpu.json), where quartiles and "
        "processor times stand. On a GPU: not measured (`make gpu-check` does). `x` is how many times faster than that "
        "contestant in the same run. MB is the least that must move, every input read and every output written once; "
        "beside it what the eager reference moves and in how many kernels. GB/s is MB over time, beside "
        f"{copied:.0f} of a plain copy. With half-precision pictures and float32 flow the least of a 512x512 warp is "
        "5.24 MB, of warp and confidence together 7.9 MB."
    )
    lines = [
        *("# What the operations cost", "", *textwrap.wrap(text, 118, break_on_hyphens=False), ""),
        "| operation | size | ms | eager torch | other | MB | eager MB / kernels | GB/s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        other = [f"{name} {v['times_faster']:.2f}x" for name, v in row["against"].items() if name != "eager torch"]
        lines.append(
            f"| {row['case']} | {row['size']} | {row['ms']['median']:.2f} "
            f"| {row['against']['eager torch']['times_faster']:.1f}x | {', '.join(other)} | {row['bytes'] / 1e6:.1f} "
            f"| {row['eager_bytes'] / 1e6:.0f} / {row['eager_kernels']} | {row['gigabytes_per_second']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="per case")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(chosen.threads)
    if chosen.device == "cpu":
        import cv2

        cv2.setNumThreads(chosen.threads)
    copied = copy_bandwidth(chosen.device)
    dtype = torch.float16 if chosen.device == "cuda" else torch.float32
    rows = run(chosen.device, dtype, 1, chosen.seconds, copied, SIZES)
    if chosen.device == "cuda":
        rows += run(chosen.device, dtype, 4, chosen.seconds, copied, {"3840x2160 by 4": (2160, 3840)})
    path = chosen.out or Path(f"benchmarks/results/ops-{chosen.device}.json")
    write_result(path, rows, copy_gigabytes_per_second=copied, load_average=os.getloadavg())
    if chosen.device == "cpu" and chosen.out is None:
        PAGE.write_text(page(rows, copied), encoding="utf-8")


if __name__ == "__main__":
    main()
