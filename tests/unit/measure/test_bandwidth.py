from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from edgellm.measure.bandwidth import ReadProbe


def test_bandwidth_is_bytes_over_the_median_of_the_rounds_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock() -> Iterator[int]:
        now = 0
        for elapsed_ns in (10**9, 1000, 5000, 3000):
            yield now
            yield (now := now + elapsed_ns)

    probe = ReadProbe(1000, threads=1)
    monkeypatch.setattr(time, "perf_counter_ns", clock().__next__)
    assert probe.nbytes == 1024
    assert probe.bytes_per_second(rounds=3) == pytest.approx(1024 * 1e9 / 3000)
