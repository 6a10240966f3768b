"""What this machine has, what each absence costs, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from .diffusion.checkpoint import BUNDLED
from .errors import BackendMissing
from .flow import ESTIMATORS
from .machine import (
    cache_folder,
    choose_device,
    choose_dtype,
    choose_threads,
    has_fast_bfloat16,
    machine_line,
    usable_cores,
    why_no_cuda,
)

State = Literal["ok", "slower", "missing"]
SMALLEST_MEMORY_GIB = 8
"""What a full-size model needs about."""
_FREE_PAGES = "SC_AVPHYS_PAGES"
_MARK = {"ok": "✓", "slower": "!", "missing": "✗"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    """What is there."""
    cost: str = ""
    """What its absence costs."""
    cure: str = ""
    """What to do."""
    needed: bool = False
    """Whether nothing can be painted without it."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything; nothing here raises."""
    return [
        *_machine(),
        _threads(),
        _memory(),
        _versions(),
        _native(),
        *_operations(),
        _triton(),
        *_packages(),
        *_runtimes(),
        _onnx_providers(),
        *_card_codecs(),
        *_models(),
        _estimators(),
        _decoders(),
        _encoders(),
        _disk(),
        _cache(),
        *_environment(),
    ]


def is_ready(findings: list[Finding]) -> bool:
    """Whether clips can be painted here."""
    return not any(finding.needed and finding.state == "missing" for finding in findings)


def print_findings(findings: list[Finding]) -> None:
    """One line each, the cost and the cure under it where something is not there."""
    for finding in findings:
        print(f"{_MARK[finding.state]} {finding.name}: {finding.found}")
        if finding.cost:
            print(f"    costs: {finding.cost}")
        if finding.cure:
            print(f"    do:    {finding.cure}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> list[Finding]:
    line = machine_line()
    device = choose_device("auto")
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    findings = [Finding("processor", "ok", f"{line['cpu']}, {line['cores']} cores, {line['threads']} threads in use")]
    if device.type == "cuda":
        findings.append(Finding("GPU", "ok", f"{line['gpu']}, models in {dtype}"))
        return findings
    findings.append(
        Finding(
            "GPU", "slower",
            f"none that torch {line['torch']} can use ({why_no_cuda()}); models run on the CPU in {dtype}",
            "about a second a frame with the bundled model, minutes with a full-size one",
            "with an NVIDIA card: install its driver and the CUDA build of torch",
        )
    )  # fmt: skip
    if not has_fast_bfloat16():
        findings.append(
            Finding(
                "bfloat16", "slower", "this CPU has no bfloat16 arithmetic", "models run in float32, up to 2x slower"
            )
        )
    return findings


def _memory() -> Finding:
    try:
        total, free = (os.sysconf("SC_PAGE_SIZE") * os.sysconf(name) / 2**30 for name in ("SC_PHYS_PAGES", _FREE_PAGES))
    except (AttributeError, ValueError, OSError):
        return Finding("memory", "ok", "this system does not tell")
    found = f"{total:.1f} GiB, {free:.1f} free now"
    if total >= SMALLEST_MEMORY_GIB:
        return Finding("memory", "ok", found)
    return Finding("memory", "slower", found, "full-size models do not fit", "use the bundled model, or a small --size")


def _versions() -> Finding:
    """The packages that flowguide does not install without."""
    wanted = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "pillow", "av", "safetensors")
    found = {name: _version(name) for name in wanted}
    absent = [name for name, number in found.items() if number is None]
    told = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if absent:
        return Finding("packages", "missing", told, f"without {', '.join(absent)} parts of flowguide fail",
                       f"pip install {' '.join(absent)}", needed=True)  # fmt: skip
    return Finding("packages", "ok", told)


def _native() -> Finding:
    if importlib.util.find_spec("flowguide._C") is not None:
        from . import _C

        return Finding("compiled operations", "ok", str(getattr(_C, "__file__", "flowguide._C")))
    return Finding(
        "compiled operations", "slower", "flowguide._C is not built",
        "warp, confidence and the guided step run in plain torch, 10 to 50x slower",
        "install a C++ compiler, then: pip install --force-reinstall --no-deps flowguide",
    )  # fmt: skip


def _operations() -> list[Finding]:
    from . import ops

    device = choose_device("auto")
    taken: dict[str, list[str]] = {}
    for name in ops.OPERATIONS:
        taken.setdefault(ops.resolve(name, device), []).append(name)
    return [
        Finding(
            f"operations by {implementation}", "slower" if implementation == "reference" else "ok", ", ".join(names)
        )
        for implementation, names in sorted(taken.items())
    ]


def _triton() -> Finding:
    found = _version("triton")
    if found is None:
        return Finding("triton", "missing", "not installed", "on a GPU: operations run as CUDA C++ or plain torch",
                       "pip install 'flowguide[triton]' (not needed on a CPU)")  # fmt: skip
    usable = "used on the GPU" if choose_device("auto").type == "cuda" else "there, but it needs a GPU"
    return Finding("triton", "ok" if choose_device("auto").type == "cuda" else "slower", f"{found}, {usable}")


def _packages() -> list[Finding]:
    wanted = {
        "peft": ("LoRAs of some layouts cannot be loaded", "pip install 'flowguide[adapters]'"),
        "torchvision": ("no flow by RAFT", "pip install 'flowguide[raft]', in the build that fits torch"),
        "OpenEXR": ("no motion vectors from .exr files", "pip install 'flowguide[exr]'"),
        "matplotlib": ("no curves by metrics --plot", "pip install 'flowguide[plot]'"),
    }
    findings = []
    for package, (cost, cure) in wanted.items():
        found = _version(package)
        findings.append(
            Finding(package, "ok", found) if found else Finding(package, "missing", "not installed", cost, cure)
        )
    return findings


def _threads() -> Finding:
    cores, threads = usable_cores(), choose_threads(0)
    found = f"{threads} of {cores} cores for the model; the others read, find flow and encode beside it"
    return Finding("threads", "ok", found if threads < cores else f"{threads} for the model; --threads changes it")


def _runtimes() -> list[Finding]:
    """What can run the networks, beside torch itself."""
    from .diffusion.runtimes import usable_runtimes

    device = choose_device("auto")
    told = {
        "openvino": "the fastest runtime of a CPU is not there: about 1.5x slower models",
        "tensorrt": "no TensorRT engines; torch runs the networks of a GPU",
        "tensorrt-rtx": "no TensorRT-RTX engines; torch runs the networks of a GPU",
    }
    findings = []
    for name, reason in usable_runtimes(tuple(told), device, choose_dtype("auto", device)).items():
        if reason is None:
            findings.append(Finding(f"runtime {name}", "ok", f"usable: --runtime {name}"))
            continue
        sentence, _, cure = reason.partition(". ")
        gpu_only = "" if name == "openvino" or device.type == "cuda" else " (this machine has no GPU for it)"
        findings.append(Finding(f"runtime {name}", "missing", sentence.rstrip(".") + gpu_only, told[name],
                                cure.rstrip(".") or "use another --runtime"))  # fmt: skip
    return findings


def _onnx_providers() -> Finding:
    try:
        import onnxruntime
    except ImportError:
        return Finding("onnxruntime", "missing", "not installed",
                       "no --runtime onnx, and flow networks as ONNX files cannot be used",
                       "pip install 'flowguide[onnx]'")  # fmt: skip
    providers = onnxruntime.get_available_providers()
    found = f"{onnxruntime.__version__}, {', '.join(name.removesuffix('ExecutionProvider') for name in providers)}"
    if choose_device("auto").type == "cuda" and "CUDAExecutionProvider" not in providers:
        return Finding("onnxruntime", "slower", found, "--runtime onnx cannot use the GPU",
                       "pip install onnxruntime-gpu in its place")  # fmt: skip
    return Finding("onnxruntime", "ok", found)


def _card_codecs() -> list[Finding]:
    """What the card decodes and encodes."""
    from .video.nvidia import capabilities

    costs = {"NVDEC": "the CPU decodes", "NVENC": "the CPU encodes"}
    try:
        found = capabilities()
    except BackendMissing as error:
        sentence, _, cure = str(error).rstrip(".").rpartition("; ")
        return [Finding(name, "missing", sentence, cost, cure) for name, cost in costs.items()]
    return [
        Finding(name, "ok", ", ".join(can)) if can
        else Finding(name, "missing", "this card has none", costs[name], "nothing: the CPU does it")
        for name, can in found.items()
    ]  # fmt: skip


def _models() -> list[Finding]:
    findings = []
    for name, folder in BUNDLED.items():
        present = (folder / "model_index.json").is_file()
        findings.append(
            Finding(f"model {name}", "ok", "bundled") if present
            else Finding(f"model {name}", "missing", "its files are not in this installation",
                         "nothing can be rendered without --model FOLDER", "reinstall flowguide", needed=True)
        )  # fmt: skip
    return findings


def _estimators() -> Finding:
    return Finding("flow estimators", "ok", ", ".join(sorted(ESTIMATORS)))


def _decoders() -> Finding:
    from av import codecs_available, library_versions

    wanted = ("h264", "hevc", "av1", "vp9", "vp8", "vvc", "mpeg2video", "prores", "ffv1")
    present = [name for name in wanted if name in codecs_available]
    libraries = ", ".join(
        f"{name} {'.'.join(map(str, library_versions[name]))}" for name in ("libavcodec", "libavformat", "libswscale")
    )
    absent = [name for name in wanted if name not in present]
    if not absent:
        return Finding("video decoders", "ok", f"{', '.join(present)} ({libraries})")
    return Finding("video decoders", "slower" if present else "missing", f"{', '.join(present)} ({libraries})",
                   f"clips in {', '.join(absent)} cannot be read", "pip install --force-reinstall av",
                   needed=True)  # fmt: skip


def _encoders() -> Finding:
    import av

    from .video import CODECS

    wanted = {codec.encoder: name for name, codec in reversed(list(CODECS.items()))}
    present = [name for encoder, name in wanted.items() if encoder in av.codecs_available]
    absent = [name for name in wanted.values() if name not in present]
    if not absent:
        return Finding("video encoders", "ok", f"{', '.join(present)} (PyAV {_version('av')})")
    state: State = "slower" if "h264" in present else "missing"
    return Finding("video encoders", state, ", ".join(present) or "none of ours",
                   f"{', '.join(absent)} cannot be written", "pip install --force-reinstall av",
                   needed=True)  # fmt: skip


def _disk() -> Finding:
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    writable = os.access(os.getcwd(), os.W_OK)
    state: State = "ok" if free > 1 and writable else "missing"
    found = f"{free:.1f} GiB free here" + ("" if writable else ", but this folder cannot be written to")
    if state == "ok":
        return Finding("disk", state, found)
    return Finding("disk", state, found, "results cannot be written", "make room, or work in another folder")


def _cache() -> Finding:
    folder = cache_folder()
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    if os.access(place, os.W_OK):
        return Finding("cache folder", "ok", str(folder))
    return Finding("cache folder", "slower", f"{folder} cannot be written to",
                   "models cannot be pulled, and dry runs know no earlier run",
                   "set FLOWGUIDE_HOME to a folder of yours")  # fmt: skip


def _environment() -> list[Finding]:
    """Settings that come from the environment, which are easily forgotten."""
    names = sorted(name for name in os.environ if name.startswith("FLOWGUIDE_"))
    return [Finding("environment", "ok", ", ".join(f"{name}={os.environ[name]}" for name in names))] if names else []
