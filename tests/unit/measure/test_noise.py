from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure import noise
from edgellm.measure.noise import NoiseProbe, SpinProbe, available_memory_bytes, describe, late_wake_ups
from edgellm.ops import native

QUIET = [[100] * 6, [100] * 6]


def sample(spin_ns: list[list[int]], read_ns: int | None = 2000, late: tuple[int, ...] = (50_000,)) -> dict[str, Any]:
    return {"wake_late_ns": list(late), "spin_ns": spin_ns, "read_ns": read_ns, "read_bytes": None if read_ns is None else 4000}


def test_a_quiet_machine() -> None:
    assert describe([sample(QUIET)] * 3, 300) == {
        "spin_pieces": 6,
        "spin_piece_ms": 300 / 1e6,
        "spin_p99_over_p50": 1,
        "spin_max_over_p50": 1,
        "spin_std_ms": 0,
        "spin_lost_share": 0,
        "spin_drift": 0,
        "read_gb_per_s_p50": 2,
        "read_p99_over_p50": 1,
        "wake_late_p50_ms": 0.05,
        "wake_late_p99_ms": 0.05,
        "wake_late_max_ms": 0.05,
    }


@pytest.mark.parametrize(
    ("spin_ns", "slowest"),
    [
        ([[100, 100, 400, 100, 100, 100], [100] * 6], 600),  # one thread is held up, and the other waits for it
        ([[100, 100, 400, 100, 100, 100], [100, 400, 100, 100, 100, 100]], 900),  # one, then the other
        ([[100, 100, 400, 100, 100, 100], [100, 100, 400, 100, 100, 100]], 600),  # both at once
        ([[100, 100, 400, 400, 100, 100], [100] * 6], 600),  # in two pieces
    ],
)
def test_what_delays_one_thread_delays_all(spin_ns: list[list[int]], slowest: int) -> None:
    figures = describe([sample(QUIET), sample(spin_ns), sample(QUIET)], 310)
    assert figures["spin_max_over_p50"] == pytest.approx(slowest / 300)


def test_lost_time_is_what_exceeds_the_quickest_piece_of_all_threads() -> None:
    assert describe([sample([[100, 200], [150, 150]])], 100)["spin_lost_share"] == pytest.approx(200 / 600)


def test_stretches_lie_within_a_sample() -> None:
    assert describe([sample(QUIET)] * 3, 400)["spin_pieces"] == 3


def test_stretches_longer_than_a_sample_cross_into_the_next() -> None:
    figures = describe([sample([[100] * 6]), sample([[200] * 6]), sample([[100] * 6])], 900)
    assert (figures["spin_pieces"], figures["spin_piece_ms"]) == (2, 1200 / 1e6)  # 6 * 100 + 3 * 200, twice


def test_drift_compares_the_ends_of_the_run() -> None:
    run = [sample([[chunk] * 6]) for chunk in [100, 100, *[150] * 16, 110, 110]]
    assert describe(run, 100)["spin_drift"] == pytest.approx(0.1)


def test_nothing_is_guessed() -> None:
    assert set(describe([], 100).values()) == {0, None}
    assert describe([], 100)["spin_pieces"] == 0
    too_long = describe([sample(QUIET, read_ns=None)], 10_000)
    assert {name for name, value in too_long.items() if value is None} == {
        *("spin_piece_ms", "spin_p99_over_p50", "spin_max_over_p50", "spin_std_ms", "read_gb_per_s_p50", "read_p99_over_p50")
    }
    assert describe([sample(QUIET, read_ns=None), sample(QUIET)], 100)["read_gb_per_s_p50"] == 2
    with pytest.raises(InvalidRequestError, match="a piece takes a positive, finite time, not nan ns"):
        describe([], float("nan"))


def test_every_spin_does_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spin(pool: native.Pool, iterations: int, chunks: int) -> np.ndarray[Any, Any]:
        asked.append((iterations, chunks))
        return np.array([[5 * iterations, 2 * iterations]])

    monkeypatch.setattr(native, "spin", spin)
    probe = SpinProbe(native.Pool(1))
    probe.spin(12)
    probe.spin(0)
    assert asked[1:] == [(125_000, 48), (125_000, 1)]  # of 2 ns each: a quarter of a millisecond


def test_a_sample() -> None:
    taken = NoiseProbe(2, 100_000).sample()
    assert json.loads(json.dumps(taken)) == taken
    assert np.array(taken["spin_ns"]).shape == (2, 48)
    assert len(taken["wake_late_ns"]) == noise.WAKE_UPS
    assert taken["read_bytes"] == 100_096
    assert taken["read_ns"] > 0
    assert None not in describe([taken], 1e6).values()


def test_a_sample_of_what_is_not_read() -> None:
    taken = NoiseProbe(1).sample()
    assert (taken["read_ns"], taken["read_bytes"]) == (None, None)
    with pytest.raises(InvalidRequestError, match="reads at least one byte, not 0"):
        NoiseProbe(1, 0)


def test_reading_leaves_most_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "available_memory_bytes", lambda: 1 << 20)
    assert NoiseProbe(1, 1 << 40).sample()["read_bytes"] == 1 << 18


@pytest.mark.parametrize("content", ["", "MemTotal: 1 kB\n", "MemAvailable:\n", "MemAvailable: many kB\n", None])
def test_available_memory(content: str | None, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 2 kB\nMemAvailable:      1234 kB\n")
    assert available_memory_bytes(meminfo) == 1234 * 1024
    meminfo.unlink()
    if content is not None:
        meminfo.write_text(content)
    assert available_memory_bytes(meminfo) >= 1 << 20


def test_wake_ups_are_late_by_what_passed_since_they_were_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [7_000_000]
    oversleep = iter([60_000, 2_500_000, 0, 90_000])

    def sleep(seconds: float) -> None:
        clock[0] += round(seconds * 1e9) + next(oversleep)

    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    assert late_wake_ups() == [60_000, 2_500_000, 1_500_000, 590_000]  # the second sleep takes the time of the two after it
