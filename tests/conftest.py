"""Shared fixtures: real data where it is, a tiny random checkpoint, and an untouched random state."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from kill_server import KillServer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Tests neither read nor write what the user's own runs left.
os.environ["FLOWGUIDE_HOME"] = tempfile.mkdtemp(prefix="flowguide-home-")

import torch
from tiny_checkpoint import save_tiny_checkpoint

torch.set_num_threads(1)
hypothesis.settings.register_profile("same-draws", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same-draws")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    data = os.environ.get("FLOWGUIDE_TEST_DATA")
    for item in items:
        if item.get_closest_marker("real") and not (data and Path(data).is_dir()):
            item.add_marker(pytest.mark.skip(reason="FLOWGUIDE_TEST_DATA does not name a folder of real clips"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


@pytest.fixture(autouse=True)
def random_state() -> Iterator[None]:
    """Each test starts from the same seed and leaves no trace."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real clips, pictures and weights."""
    return Path(os.environ["FLOWGUIDE_TEST_DATA"])


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent diffusion checkpoint of a few thousand random weights in diffusers layout."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def server() -> Iterator[KillServer]:
    """Runs that can be killed."""
    from kill_server import KillServer  # what it imports takes seconds

    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    server = KillServer()
    yield server
    server.close()
