"""What this machine has, what each absence costs, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from .diffusion.checkpoint import BUNDLED
from .flow import ESTIMATORS
from .machine import choose_device, choose_dtype, has_fast_bfloat16, machine_line

State = Literal["ok", "slower", "missing"]
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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything; nothing here raises."""
    return [
        *_machine(),
        _native(),
        *_operations(),
        _triton(),
        *_packages(),
        *_models(),
        _estimators(),
        _encoders(),
        _disk(),
    ]


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
            "GPU", "slower", f"none that torch {line['torch']} can use; models run on the CPU in {dtype}",
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
        "onnxruntime": ("flow networks as ONNX files cannot be used", "pip install 'flowguide[onnx]'"),
        "PyNvVideoCodec": ("no decoding on the GPU; the CPU decodes", "pip install 'flowguide[nvidia]' (NVIDIA GPUs)"),
        "tensorrt": ("no TensorRT engines", "install tensorrt from NVIDIA"),
    }
    findings = []
    for package, (cost, cure) in wanted.items():
        found = _version(package)
        findings.append(
            Finding(package, "ok", found) if found else Finding(package, "missing", "not installed", cost, cure)
        )
    return findings


def _models() -> list[Finding]:
    findings = []
    for name, folder in BUNDLED.items():
        present = (folder / "model_index.json").is_file()
        findings.append(
            Finding(f"model {name}", "ok", "bundled") if present
            else Finding(f"model {name}", "missing", "its files are not in this installation",
                         "nothing can be rendered without --model FOLDER", "reinstall flowguide")
        )  # fmt: skip
    return findings


def _estimators() -> Finding:
    return Finding("flow estimators", "ok", ", ".join(sorted(ESTIMATORS)))


def _encoders() -> Finding:
    import av

    wanted = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "ffv1", "h264_nvenc")
    present = [name for name in wanted if name in av.codecs_available]
    if "libx264" in present:
        return Finding("video encoders", "ok", f"{', '.join(present)} (PyAV {_version('av')})")
    return Finding("video encoders", "missing", ", ".join(present) or "none of ours", "MP4 cannot be written",
                   "pip install --force-reinstall av")  # fmt: skip


def _disk() -> Finding:
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    writable = os.access(os.getcwd(), os.W_OK)
    state: State = "ok" if free > 1 and writable else "missing"
    found = f"{free:.1f} GiB free here" + ("" if writable else ", but this folder cannot be written to")
    return Finding("disk", state, found, "" if state == "ok" else "results cannot be written", "")
