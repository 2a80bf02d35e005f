from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from edgellm.measure import sensors
from edgellm.measure.sensors import Sensors, cpuinfo_mhz, nvidia_utilisation, throttled
from tests.unit.measure.machines import CONTAINER, CPU, DESKTOP, LAPTOP, RPI5, RPI_ZERO_2W, VM, lay_out

NOTHING = dict.fromkeys(
    ("frequency_mhz", "frequency_source", "temperature_c", "throttled_now", "throttled_since_boot", "gpu_utilisation"),
)


@pytest.fixture(autouse=True)
def no_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.parametrize(
    ("files", "levels"),
    [
        pytest.param(RPI5, {"frequency_mhz": [2400] * 4, "frequency_source": "scaling_cur_freq", "temperature_c": 58.45}, id="rpi5"),
        pytest.param(
            RPI_ZERO_2W,
            {
                "frequency_mhz": [600] * 4,
                "frequency_source": "scaling_cur_freq",
                "temperature_c": 82.173,
                "throttled_now": ["soft_temperature_limit"],
                "throttled_since_boot": ["under_voltage", "throttled", "soft_temperature_limit"],
            },
            id="rpi-zero2w",
        ),
        pytest.param(
            LAPTOP,
            {
                "frequency_mhz": list(range(800, 812)),
                "frequency_source": "scaling_cur_freq",
                "temperature_c": 71,
                "gpu_utilisation": [0.37],
            },
            id="laptop",
        ),
        pytest.param(DESKTOP, {"temperature_c": 45.125}, id="desktop"),
        pytest.param(VM, {"frequency_mhz": [2596.0, 2596.1], "frequency_source": "cpuinfo"}, id="vm"),
        pytest.param(
            CONTAINER, {"frequency_mhz": [None], "frequency_source": "scaling_cur_freq", "gpu_utilisation": [None]}, id="container"
        ),
        pytest.param({}, {}, id="nothing"),
    ],
)
def test_levels(files: dict[str, str], levels: dict[str, Any], tmp_path: Path) -> None:
    found = Sensors(lay_out(files, tmp_path)).levels()
    assert found == {name: pytest.approx(value) if name in levels else value for name, value in (NOTHING | levels).items()}


def test_files_that_vanish_leave_gaps(tmp_path: Path) -> None:
    there = Sensors(lay_out(LAPTOP, tmp_path))
    assert there.throttle_count() == sum(range(12)) + 100
    (tmp_path / CPU / "cpu10/cpufreq/scaling_cur_freq").unlink()
    (tmp_path / CPU / "cpu10/thermal_throttle/core_throttle_count").unlink()
    assert there.levels()["frequency_mhz"] == [*range(800, 810), None, 811]
    assert there.throttle_count() is None
    shutil.rmtree(tmp_path / "sys")
    assert there.levels()["temperature_c"] is None


@pytest.mark.parametrize("files", [VM, CONTAINER, RPI5])
def test_processors_that_count_no_throttling(files: dict[str, str], tmp_path: Path) -> None:
    assert Sensors(lay_out(files, tmp_path)).throttle_count() is None


@pytest.mark.parametrize(
    ("text", "now", "since_boot"),
    [
        ("throttled=0x0", [], []),
        ("0\n", [], []),
        ("throttled=0x50005\n", ["under_voltage", "throttled"], ["under_voltage", "throttled"]),
        ("20002", ["frequency_capped"], ["frequency_capped"]),
        ("e0000", [], ["frequency_capped", "throttled", "soft_temperature_limit"]),
        ("fff0fff0", [], []),  # bits that have no name
    ],
)
def test_throttled(text: str, now: list[str], since_boot: list[str]) -> None:
    assert throttled(text) == (now, since_boot)


@pytest.mark.parametrize("text", [None, "", "throttled=", "0x", "-1", "VCHI initialization failed", "1" * 100, "throttled=0x1\n0x2"])
def test_no_word_is_no_state(text: str | None) -> None:
    assert throttled(text) == (None, None)


@pytest.mark.parametrize(
    ("text", "shares"),
    [("0\n", [0]), ("7\n100", [0.07, 1]), ("[N/A]\n50", [None, 0.5]), ("[N/A]", None), ("", None), (None, None), ("No devices", None)],
)
def test_nvidia_utilisation(text: str | None, shares: list[float | None] | None) -> None:
    assert nvidia_utilisation(text) == shares


def test_cpuinfo_of_many_processors() -> None:
    text = "".join(f"processor\t: {i}\ncpu MHz\t\t: {1000 + i}.5\n\n" for i in range(100))
    assert cpuinfo_mhz(text) == [1000.5 + i for i in range(100)]
    assert cpuinfo_mhz("cpu MHz\t\t: fast\ncpu MHz dynamic\t\t: 5504\n") == []


def test_commands_run_seldom_and_leave_gaps_in_between(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, asked = [100.0], []

    def run(*words: str) -> str:
        asked.append(words[0])
        clock[0] += 1  # an answer that takes long does not shorten the pause
        return {"vcgencmd": "throttled=0x4", "nvidia-smi": "12"}[words[0]]

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    pi = Sensors(lay_out(RPI5, tmp_path), run)
    first, second = pi.levels(), pi.levels()
    assert (first["throttled_now"], first["gpu_utilisation"]) == (["throttled"], [0.12])
    assert (second["throttled_now"], second["gpu_utilisation"]) == (None, None)
    clock[0] += sensors.COMMAND_PERIOD_S
    assert pi.levels() == first
    assert asked == ["vcgencmd", "nvidia-smi"] * 2


def test_a_command_is_asked_only_where_no_file_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    lay_out(RPI_ZERO_2W, tmp_path)
    lay_out(LAPTOP, tmp_path)
    assert Sensors(tmp_path, lambda *words: pytest.fail(words[0])).levels()["gpu_utilisation"] == [0.37]


def test_a_command_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert Sensors(tmp_path, lambda *words: None).levels() == NOTHING
