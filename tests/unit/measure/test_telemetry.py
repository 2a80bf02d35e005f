from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure.telemetry import Bystanders, Telemetry
from tests.unit.measure.machines import CPU, LAPTOP, lay_out
from tests.unit.measure.test_process import ID, SERVER, stat

LEVELS = {"frequency_mhz", "frequency_source", "temperature_c", "throttled_now", "throttled_since_boot", "gpu_utilisation"}
OF_PROCESS = {
    *("cpu_seconds", "cpu_utilisation", "minor_faults", "major_faults", "voluntary_switches", "involuntary_switches"),
    *("storage_read_bytes", "rss_bytes", "peak_rss_bytes"),
}


def test_of_this_process() -> None:
    telemetry = Telemetry(os.getpid())
    telemetry.begin()
    block = b"x" * 2**24
    found = telemetry.end()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == OF_PROCESS | LEVELS | {"wall_seconds", "stolen_share", "throttle_events"}
    assert found["minor_faults"] > 0
    assert found["cpu_seconds"] > 0
    assert found["cpu_utilisation"] == pytest.approx(found["cpu_seconds"] / found["wall_seconds"])
    assert found["peak_rss_bytes"] >= len(block)


def test_counters_since_begin(tmp_path: Path) -> None:
    telemetry = Telemetry(ID, lay_out(SERVER | LAPTOP, tmp_path))
    telemetry.begin()
    later = {
        f"proc/{ID}/stat": stat().replace(" 1500 11 12 ", " 1600 11 13 "),
        f"proc/{ID}/io": "read_bytes: 8192\n",
        f"proc/{ID}/task/{ID + 1}/status": "voluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t4\n",
        f"{CPU}/cpu3/thermal_throttle/core_throttle_count": "5\n",
    }
    lay_out(later, tmp_path)
    found = telemetry.end()
    expected = {
        "minor_faults": 100,
        "major_faults": 1,
        "storage_read_bytes": 4096,
        "voluntary_switches": 2,
        "involuntary_switches": 1,
        "throttle_events": 2,
        "rss_bytes": 2**21,
        "temperature_c": 71,
        "cpu_seconds": None,
        "cpu_utilisation": None,
    }
    assert {name: found[name] for name in expected} == expected


def test_a_process_that_ends_leaves_gaps(tmp_path: Path) -> None:
    telemetry = Telemetry(ID, lay_out(SERVER, tmp_path))
    telemetry.begin()
    (tmp_path / f"proc/{ID}/stat").unlink()
    found = telemetry.end()
    assert {name for name, value in found.items() if value is None} >= OF_PROCESS
    assert found["wall_seconds"] > 0


def test_of_an_unknown_process_nothing_is_said(tmp_path: Path) -> None:
    """This one's own numbers least of all: it only asks the server."""
    telemetry = Telemetry(None, lay_out(LAPTOP, tmp_path))
    telemetry.begin()
    found = telemetry.end()
    assert all(found[name] is None for name in OF_PROCESS)
    assert found["temperature_c"] == 71


def test_an_end_needs_a_begin() -> None:
    with pytest.raises(InvalidRequestError, match=r"call begin\(\) before end\(\)"):
        Telemetry(None).end()


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
