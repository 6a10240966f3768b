"""The doctor: what it looks at, what it says of what is absent, and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fake_nvcodec
import pytest

from flowguide import doctor, machine
from flowguide.cli import main
from flowguide.doctor import Finding, examine, is_ready
from flowguide.errors import BackendMissing


def ended(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_code:
        main(list(arguments))
    return int(exit_code.value.code or 0)


def test_everything_is_looked_at_and_every_trouble_has_cost_and_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWGUIDE_RENDER_SEED", "7")
    findings = examine()
    names = {finding.name for finding in findings}
    assert {"processor", "memory", "packages", "compiled operations", "model painter", "video decoders",
            "video encoders", "disk", "cache folder", "environment"} <= names  # fmt: skip
    assert "FLOWGUIDE_RENDER_SEED=7" in next(f.found for f in findings if f.name == "environment")
    for finding in findings:
        if finding.state == "missing":
            assert finding.cost, finding.name
            assert finding.cure, finding.name


def test_exit_codes_tell_whether_clips_can_be_painted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("doctor") == 0
    capsys.readouterr()
    monkeypatch.setattr(doctor, "BUNDLED", {"painter": Path("/absent")})
    assert ended("doctor", "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert content["ready"] is False
    assert ended("doctor") == 1
    assert "✗ model painter" in capsys.readouterr().out


def test_what_is_not_needed_does_not_fail() -> None:
    absent = Finding("tensorrt", "missing", "not installed", "no engines", "install it")
    assert is_ready([absent])
    assert not is_ready([absent, Finding("disk", "missing", "full", "no results", "make room", needed=True)])


def test_a_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    findings = {finding.name: finding for finding in examine()}
    assert findings["disk"].state == "missing"
    assert findings["cache folder"].state == "slower"


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update it.")

    monkeypatch.setattr(machine.torch.cuda, "init", old)
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        BackendMissing, match=r"driver on your system is too old \(found version 11040\)\); use --device"
    ):
        machine.choose_device("cuda")
    row = next(finding for finding in examine() if finding.name == "GPU")
    assert "too old" in row.found


def test_every_runtime_and_codec_of_a_card_has_a_row() -> None:
    rows = {finding.name: finding for finding in examine()}
    for name in ("threads", "runtime openvino", "runtime tensorrt", "runtime tensorrt-rtx", "onnxruntime", "NVDEC",
                 "NVENC"):  # fmt: skip
        assert rows[name].found, name
    assert "CPU" in rows["onnxruntime"].found


def test_a_card_tells_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", fake_nvcodec)
    monkeypatch.setitem(fake_nvcodec.ENCODERS, "engines", 0)
    rows = {finding.name: finding for finding in examine()}
    assert rows["NVDEC"].found == "H264 8 bit, HEVC 8 bit, HEVC 10 bit, VP9 8 bit"
    assert rows["NVENC"].state == "missing"
    assert rows["NVENC"].cure == "nothing: the CPU does it"


def test_freed_memory_can_be_kept_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda _: object())
    machine.keep_freed_memory()
