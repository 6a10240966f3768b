"""`flowguide models pull` over real HTTP, against a server in the Hub's layout on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import hub
from tiny_checkpoint import save_family

from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.diffusion.model_folders import find_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with what a download should leave alone beside what it should take."""
    folder = save_family(tmp_path_factory.mktemp("hub") / "boats", "sd1")
    (folder / "README.md").write_text("---\nlicense: openrail\n---\n")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    (folder / "whole.safetensors").write_bytes(b"the same again in one file")
    return folder


def command(address: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": address, "FLOWGUIDE_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "5",
                   "HF_HOME": str(home / "hub"), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    script = "from flowguide.cli import main; import sys; main(sys.argv[1:])"
    whole = [sys.executable, "-c", script, "models", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_a_checkpoint_is_fetched_and_loads(tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub({"someone/boats": published}) as (address, fetched):
        done = command(address, tmp_path, "pull", "someone/boats")
    assert done.returncode == 0, done.stderr
    assert "licence openrail" in done.stdout
    folder = tmp_path / "models" / "someone--boats"
    assert "unet/diffusion_pytorch_model.safetensors" in fetched
    assert not [file for file in fetched if file.endswith(".bin") or "whole" in file]
    ours, theirs = (load_checkpoint(str(where), torch.float32, CPU) for where in (folder, published))
    for name, value in theirs.unet.state_dict().items():
        assert torch.equal(ours.unet.state_dict()[name], value), name
    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path))
    assert find_model("checkpoint", "someone--boats") == folder, "found by its name from now on"


def test_without_a_network_it_ends_at_once_in_one_sentence(tmp_path: Path) -> None:
    with hub({}) as (address, fetched):
        pass
    assert fetched == []
    done = command(address, tmp_path, "pull", "someone/boats")
    assert done.returncode == 1
    assert done.stderr.startswith("flowguide: someone/boats could not be fetched: ")
    assert len(done.stderr.strip().splitlines()) == 1
