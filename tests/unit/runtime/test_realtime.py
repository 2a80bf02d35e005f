"""Real time: what it changes, that it is undone, and what is said where the system refuses. Most of it in processes of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgellm
from edgellm.errors import EdgeLLMWarning
from edgellm.ops import native
from edgellm.runtime import realtime
from tests.unit.runtime import programs

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="it asks for what Linux has")


@needs_linux
@pytest.mark.parametrize("program", [programs.real_time.__name__, programs.real_time_refused.__name__])
def test_in_a_process_of_its_own(program: str, run_program: Callable[[str], None]) -> None:
    run_program(program)


@pytest.fixture
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process is neither locked nor put before others."""
    monkeypatch.delattr(os, "sched_setscheduler", raising=False)
    monkeypatch.setattr(native, "lock", lambda array: None)
    monkeypatch.setattr(native, "lock_all", lambda: None)


def said(model: Path, threads: int) -> list[str]:
    """The warnings of an engine in real time, less the one that everything is tested without SCHED_FIFO."""
    with pytest.warns(EdgeLLMWarning) as warned:
        edgellm.load(model, threads=threads, realtime=True).close()
    messages = [str(warning.message) for warning in warned]
    assert messages.pop() == "this system has no class SCHED_FIFO, so other processes may interrupt a token"
    return messages


def test_a_system_that_binds_no_threads(harmless: None, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert said(synthetic_model, threads=1) == ["this system binds no threads to cores, so it may move them"]


@needs_linux
def test_more_threads_than_processors_are_not_bound(harmless: None, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(realtime, "physical_cores", lambda: [0])
    monkeypatch.setattr(realtime, "processors", lambda: [0, 1])
    expected = ["3 threads can't have a core each of the 2 that this process may use, so they are bound to none"]
    assert [line for line in said(synthetic_model, threads=3) if "were asked for" not in line] == expected
    assert os.sched_getaffinity(0) == before


@needs_linux
def test_cores_that_the_system_refuses(harmless: None, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    monkeypatch.setattr(realtime, "physical_cores", lambda: [100_000])
    expected = ["threads can't be bound to the cores [100000] (Invalid argument), so the system may move them"]
    assert said(synthetic_model, threads=1) == expected
    assert os.sched_getaffinity(0) == before
