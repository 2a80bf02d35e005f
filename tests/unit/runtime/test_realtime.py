"""Real time: what it changes, that it is undone, and what is said where the system refuses. Most of it in processes of their own."""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import edgellm
from edgellm.errors import EdgeLLMWarning
from edgellm.ops import native
from edgellm.runtime import realtime
from tests.unit.runtime import programs

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="it asks for what Linux has")


PROGRAMS = [programs.real_time, programs.real_time_forked, programs.real_time_beside_others, programs.real_time_refused]
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


@pytest.mark.skipif(not HUGE_PAGES.exists(), reason="the kernel has no transparent huge pages")
@pytest.mark.parametrize("locked", [False, True])
def test_a_cache_asks_for_huge_pages_where_all_of_its_memory_is_taken_anyway(locked: bool, synthetic_model: Path) -> None:
    with warnings.catch_warnings(action="ignore", category=EdgeLLMWarning):  # the system may refuse to lock it
        engine = edgellm.load(synthetic_model, threads=1, lock_memory=locked)
    assert ("hg" in flags_of_mapping(engine._state.cache[0].keys.ctypes.data)) == locked


def flags_of_mapping(address: int) -> list[str]:
    """VmFlags, as man 5 proc has them, of the mapping that the address lies in."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, *rest = line.split()
        if "-" in head:
            begin, end = (int(number, 16) for number in head.split("-"))
            found = begin <= address < end
        elif found and head == "VmFlags:":
            return rest
    raise AssertionError(f"no mapping has the address {address:#x}")


@needs_linux
@pytest.mark.parametrize("program", [program.__name__ for program in PROGRAMS])
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


@needs_linux
def test_the_model_file_is_not_locked(harmless: None, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[str] = []
    for lock in ("lock", "lock_all"):
        monkeypatch.setattr(native, lock, lambda *_: mapped.append(Path("/proc/self/maps").read_text()))
    said(synthetic_model, threads=1)
    assert mapped
    assert not any(os.fspath(synthetic_model) in maps for maps in mapped)


@needs_linux
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_class_that_is_refused_half_way(code: int, harmless: None, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that has it loses it again with the rest."""
    policies: dict[int, list[int]] = {}

    def set_scheduler(thread: int, policy: int, parameters: os.sched_param) -> None:
        if thread not in policies and policies:
            raise OSError(code, os.strerror(code))
        policies.setdefault(thread, []).append(policy)

    monkeypatch.setattr(os, "sched_setscheduler", set_scheduler, raising=False)
    with pytest.warns(EdgeLLMWarning, match=rf"SCHED_FIFO is refused \({os.strerror(code)}\)"):
        edgellm.load(synthetic_model, threads=2, realtime=True).close()
    assert policies == {threading.get_native_id(): [os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_getscheduler(0)]}


def test_memory_that_is_refused_without_a_limit(harmless: None, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not here")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for lock in ("lock", "lock_all"):
        monkeypatch.setattr(native, lock, refuse)
    (memory,) = said(synthetic_model, threads=1)
    assert "MiB can't be locked in memory (not here; there is no limit), so the system may" in memory
    assert memory.endswith("take pages away. To allow it: the capability CAP_IPC_LOCK")
