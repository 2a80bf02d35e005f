"""The default number of threads, on machines that are made up."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

import edgellm
from edgellm.errors import EdgeLLMWarning, NativeError
from edgellm.ops import native
from edgellm.runtime import cores

SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its /sys and /proc: empty folders."""
    monkeypatch.setattr(cores, "SYS", tmp_path / "sys")
    monkeypatch.setattr(cores, "PROC", tmp_path / "proc")
    return tmp_path


def allow(monkeypatch: pytest.MonkeyPatch, *processors: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: set(processors), raising=False)


def write(machine: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = machine / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("siblings", "allowed", "expected"),
    [
        (["0,2", "1,3", "0,2", "1,3"], [0, 1, 2, 3], [0, 1]),
        (["0-1", "0-1", "2-3", "2-3"], [1, 2, 3], [1, 2]),
        (["0-1", "0-1", "2-3", "2-3"], [3], [3]),
        (["0", "1", "2", "3"], [0, 2], [0, 2]),
        ([], [0, 5], [0, 5]),  # a board that doesn't say
    ],
)
def test_one_processor_of_each_core(
    siblings: list[str], allowed: list[int], expected: list[int], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine, {SIBLINGS.format(i): text for i, text in enumerate(siblings)})
    allow(monkeypatch, *allowed)
    assert cores.physical_cores() == expected
    assert cores.default_threads() == len(expected)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, math.inf),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "250000 100000"}, 2.5),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "50000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 0.5),
        ({"proc/self/cgroup": "0::/not/seen/here", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "3:cpuset:/x\n2:cpu,cpuacct:/x\n0::/",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
    ],
)
def test_the_tightest_quota_counts(files: dict[str, str], quota: float, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(machine, files)
    allow(monkeypatch, *range(8))
    assert cores.cpu_quota() == quota
    assert cores.default_threads() == max(1, math.floor(min(quota, 8)))


def test_a_pool_takes_no_more(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, *range(384))
    assert cores.default_threads() == native.MAX_THREADS


def test_without_affinity_all_processors_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores.default_threads() == 6


def test_an_affinity_that_excludes_every_processor(synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch)
    with pytest.raises(NativeError, match="the CPU affinity of this process excludes every processor"):
        edgellm.load(synthetic_model)


def test_more_threads_than_processors_work_with_a_warning(synthetic_model: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 0, 1)
    expected = edgellm.load(synthetic_model, threads=2).prefill([1, 2, 3]).copy()
    with pytest.warns(EdgeLLMWarning, match="7 threads were asked for, and this process may use 2 processors: the threads take turns"):
        engine = edgellm.load(synthetic_model, threads=7)
    assert engine.prefill([1, 2, 3]).tobytes() == expected.tobytes()
