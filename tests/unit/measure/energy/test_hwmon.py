from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.measure.energy import hwmon
from edgellm.measure.energy.provider import EnergyUnavailableError


def device(root: Path, number: int, **files: object) -> Path:
    """A device as the kernel shows it (Documentation/hwmon/ina2xx.rst)."""
    folder = root / hwmon.HWMON / f"hwmon{number}"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def test_a_chip_that_computes_power(tmp_path: Path) -> None:
    device(tmp_path, 0, name="cpu_thermal", temp1_input=45000)
    device(tmp_path, 1)
    device(tmp_path, 2, name="ina226", power1_input=4_350_000, curr1_input=1, in1_input=1, shunt_resistor=10000, update_interval=140)
    provider = hwmon.find(tmp_path)
    assert provider.watts() == 4.35
    assert provider.source.startswith("ina226 at hwmon2, power1_input, shunt 10000 microohm")
    assert provider.sample_rate_hz == pytest.approx(1000 / 140)


def test_current_times_line_voltage_and_not_the_shunts(tmp_path: Path) -> None:
    device(tmp_path, 0, name="ina219", curr1_input=850, in0_input=85, in1_input=5100)
    provider = hwmon.find(tmp_path)
    assert provider.watts() == pytest.approx(0.85 * 5.1)
    assert provider.sample_rate_hz == hwmon.RATE_HZ


def test_of_several_one_has_to_be_named(tmp_path: Path) -> None:
    device(tmp_path, 3, name="ina219", power1_input=1_000_000)
    device(tmp_path, 4, name="ina226", power1_input=2_000_000)
    with pytest.raises(EnergyUnavailableError, match=r"hwmon3 \(ina219\), hwmon4 \(ina226\); name one"):
        hwmon.find(tmp_path)
    assert hwmon.find(tmp_path, "hwmon4").watts() == 2
    with pytest.raises(EnergyUnavailableError, match="no INA219/INA226 at hwmon5"):
        hwmon.find(tmp_path, "hwmon5")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(EnergyUnavailableError, match=r"\(/sys/class/hwmon is missing\)"):
        hwmon.find(tmp_path)
    device(tmp_path, 0, name="ina3221", power1_input=1)
    with pytest.raises(EnergyUnavailableError, match="there is none"):
        hwmon.find(tmp_path)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"power1_input": "fast"}, "says 'fast', not a whole number"),
        ({"power1_input": ""}, "not a whole number"),
        ({"curr1_input": 5}, "cannot read .*in1_input"),
    ],
)
def test_files_that_cannot_be_read(files: dict[str, object], problem: str, tmp_path: Path) -> None:
    device(tmp_path, 0, name="ina219", **files)
    with pytest.raises(EnergyUnavailableError, match=problem):
        hwmon.find(tmp_path)
