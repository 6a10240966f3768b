"""Mutated files of every kind are one sentence: `fuzz.py` is the harness, FLOWGUIDE_TEST_FUZZ=10000 the long form."""

from __future__ import annotations

import os

import fuzz
import pytest

CASES = int(os.environ.get("FLOWGUIDE_TEST_FUZZ", "120"))


@pytest.mark.timeout(300 + 5 * CASES)
def test_mutated_files_do_not_crash_hang_or_leak() -> None:
    assert fuzz.run(0, CASES) == []


def test_a_crash_a_hang_and_an_exception_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself; `fuzz.SICK` says what its cases do."""
    monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 2.0)
    monkeypatch.setenv(fuzz.SICKNESS, "1")
    found = fuzz.run(0, max(fuzz.SICK) + 2)
    assert [text.split(" ", 2)[1] for text in found] == [str(number) for number in fuzz.SICK]
    assert "ended the process with" in found[0]
    assert "takes more than" in found[1]
    assert "ZeroDivisionError" in found[2]


def test_every_kind_has_seeds() -> None:
    assert all(fuzz.seeds().values())
