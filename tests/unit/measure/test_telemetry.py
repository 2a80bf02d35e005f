from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgellm.measure.telemetry import Bystanders, peak_rss_bytes


def test_peak_memory_counts_what_was_given_back() -> None:
    before = peak_rss_bytes()
    block = b"x" * (before + 2**24)
    del block
    assert peak_rss_bytes() > before + 2**24


def says(monkeypatch: pytest.MonkeyPatch, seconds: str, own: tuple[float, ...]) -> None:
    """What the system says: seconds of user, nice, system, idle, waiting, interrupts, soft interrupts, stolen; and of this process."""
    ticks = " ".join(str(int(field) * os.sysconf("SC_CLK_TCK")) for field in seconds.split())
    monkeypatch.setattr(Path, "read_text", lambda path: f"cpu  {ticks} 7 7\ncpu0 1 2\n")
    monkeypatch.setattr(os, "times", lambda: (*own, 99.0))


def test_what_others_had_is_what_is_left_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "100 10 20 500 5 1 1 3", own=(10, 2, 0, 0))
    watch = Bystanders()
    says(monkeypatch, "130 11 24 550 6 1 3 14", own=(25, 3, 8, 1))
    assert watch.shares() == pytest.approx({"others": (37 - 25) / 99, "stolen": 11 / 99})


@pytest.mark.parametrize("content", ["", "cpu  1 2 3\n", "intr 1\n"])
def test_a_system_that_does_not_say(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: content)
    assert Bystanders().shares() is None
