from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.measure.energy import powermetrics
from edgellm.measure.energy.provider import EnergyUnavailableError, MissedSample, PowerSample
from tests.unit.measure.energy import recorded

APPLE = recorded.powermetrics({"cpu_power": 2978.45, "gpu_power": 269.6, "ane_power": 0.0, "combined_power": 3248.0})
INTEL = recorded.powermetrics({"package_joules": 2.5}, elapsed_ns=500_000_000)


@pytest.mark.parametrize(("document", "watts", "seconds"), [(APPLE, 3.248, 0.2), (INTEL, 5.0, 0.5)], ids=["Apple", "Intel"])
def test_an_average_lies_in_the_middle_of_its_interval(document: bytes, watts: float, seconds: float) -> None:
    item = powermetrics.sample(document, arrived_s=10.0)
    assert isinstance(item, PowerSample)
    assert (item.at_s, item.watts) == pytest.approx((10 - seconds / 2, watts))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<plist>",
        APPLE[:300] + b"</plist>",
        recorded.powermetrics({"cpu_power": 1.0}),
        recorded.powermetrics({"package_joules": 1.0}, elapsed_ns=0),
        recorded.powermetrics({"combined_power": float("nan")}),
        b"<plist version='1.0'><array/></plist>",
    ],
    ids=["empty", "cut off", "broken", "no power", "no time", "not a number", "an array"],
)
def test_a_document_without_power_is_a_missed_sample(document: bytes) -> None:
    item = powermetrics.sample(document, arrived_s=10.0)
    assert isinstance(item, MissedSample)
    assert "combined_power" in item.reason


def test_documents_come_as_soon_as_they_are_complete() -> None:
    """The NUL between them comes with the next one, so nothing may wait for it."""
    lines = [*APPLE.splitlines(keepends=True), *(b"\0" + INTEL).splitlines(keepends=True), b"\0<?xml"]
    unread = iter(lines)
    stream = powermetrics.documents(unread)
    assert next(stream) == APPLE.strip()
    assert next(unread).startswith(b"\0")
    assert list(powermetrics.documents(lines)) == [APPLE.strip(), INTEL.strip()]


def test_a_stream(tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(APPLE + b"\0" + APPLE)
    stream = powermetrics.PowermetricsStream(("cat", str(tmp_path / "stream")), lambda: 10.0)
    items = iter(stream)
    assert [item.at_s for item in (next(items), next(items))] == pytest.approx([9.9, 9.9])
    stream.close()
    assert list(items) == []


def test_the_program_gives_up_and_says_why() -> None:
    command = ("sh", "-c", "echo powermetrics must be invoked as the superuser >&2; exit 1")
    with pytest.raises(EnergyUnavailableError, match="ended with 1: powermetrics must be invoked as the superuser"):
        list(powermetrics.PowermetricsStream(command, lambda: 0.0))


def test_the_program_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnergyUnavailableError, match="powermetrics does not start"):
        powermetrics.PowermetricsStream((str(tmp_path / "absent"),), lambda: 0.0)


def test_who_may_ask() -> None:
    with pytest.raises(EnergyUnavailableError, match="not macOS"):
        powermetrics.find("linux", 0)
    with pytest.raises(EnergyUnavailableError, match="with sudo"):
        powermetrics.find("darwin", 501)
    assert powermetrics.find("darwin", 0).kind == "estimated"
