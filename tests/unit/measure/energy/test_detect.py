from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellm.cli import main
from edgellm.errors import InvalidRequestError
from edgellm.measure.energy import detect
from edgellm.measure.energy.provider import EnergyUnavailableError
from tests.unit.measure.energy import recorded
from tests.unit.measure.energy.test_hwmon import device
from tests.unit.measure.energy.test_rapl import zone


def test_a_machine_that_has_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert detect.find_provider(tmp_path) is None
    detected = detect.detect(tmp_path)
    assert {found.name for found in detected} == {"rapl", "rapl-psys", "hwmon", "pmic", "powermetrics", "usb-meter"}
    for reason in (
        "no RAPL (/sys/class/powercap is missing)",
        "no INA219/INA226 (/sys/class/hwmon is missing)",
        "not a Raspberry Pi 5 (/proc/device-tree/model is missing)",
        "not macOS (no powermetrics)",
        "no USB power meter was named",
    ):
        assert detect.not_available(detected).count(reason) == 1
        assert reason in detect.lines(detected)
    assert detect.not_available(detected).startswith("n/a: ")


def test_what_measures_the_supply_comes_before_what_measures_the_processor(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    found = detect.find_provider(tmp_path)
    assert found is not None
    assert found.name == "rapl"
    device(tmp_path, 0, name="ina219", power1_input=1)
    found = detect.find_provider(tmp_path)
    assert found is not None
    assert found.name == "hwmon"
    assert "estimated  counter  RAPL package-0" in detect.lines(detect.detect(tmp_path))
    assert "measured   50 Hz    ina219 at hwmon0" in detect.lines(detect.detect(tmp_path))


def test_one_that_is_asked_for(tmp_path: Path) -> None:
    for number in (0, 1):
        device(tmp_path, number, name="ina219", power1_input=number)
    assert "hwmon1" in detect.choose("hwmon=hwmon1", tmp_path).source
    with pytest.raises(EnergyUnavailableError, match=r"no RAPL \(/sys/class/powercap is missing\)"):
        detect.choose("rapl", tmp_path)
    log = tmp_path / "log.csv"
    log.write_text(recorded.METER_TABLE)
    with pytest.raises(EnergyUnavailableError, match="import it after the run"):
        detect.choose(f"usb-meter={log}", tmp_path)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("cpu-percent", "'cpu-percent' is unknown; known: hwmon, rapl, pmic, powermetrics, rapl-psys, usb-meter"),
        ("rapl=0", "rapl=0: rapl takes no argument"),
    ],
)
def test_a_provider_that_there_is_not(asked: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        detect.choose(asked, tmp_path)


def test_the_command() -> None:
    names = {found.name for found in detect.detect()}
    printed = CliRunner().invoke(main, ["energy"]).stdout
    assert {line.split()[0] for line in printed.splitlines() if line} >= names
    objects = [json.loads(line) for line in CliRunner().invoke(main, ["energy", "--json"]).stdout.splitlines()]
    assert {each["name"] for each in objects} == names
    assert all(set(each) >= ({"source", "kind"} if each["available"] else {"why_not"}) for each in objects)
