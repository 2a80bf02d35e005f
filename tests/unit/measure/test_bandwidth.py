from __future__ import annotations

import time

import pytest

from edgellm.measure.bandwidth import ReadProbe
from edgellm.ops import native


def test_a_sample_is_the_second_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(native, "read", lambda data, pool: calls.append(data.nbytes))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 1000 * len(calls) ** 2)
    probe = ReadProbe(1000, threads=1)
    assert probe.read_ns() == 3000
    assert calls == [1024, 1024]


def test_bandwidth_is_bytes_over_the_median() -> None:
    assert ReadProbe(1000, threads=1).bytes_per_second([1000, 5000, 3000]) == pytest.approx(1024 * 1e9 / 3000)
