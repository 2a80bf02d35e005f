from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from edgellm.measure.energy import pmic
from edgellm.measure.energy.provider import EnergyUnavailableError, PowerSample
from tests.unit.measure.energy.recorded import PMIC


def board(root: Path, model: str = "Raspberry Pi 5 Model B Rev 1.0") -> Path:
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_bytes(model.encode() + b"\0")
    return root


def test_rails_are_paired_by_name() -> None:
    watts = pmic.rail_watts(PMIC)
    assert len(watts) == 12
    assert watts["VDD_CORE"] == pytest.approx(1.5 * 0.88)
    assert watts["3V7_WL_SW"] == pytest.approx(0.1219913 * 3.606052)
    assert {"EXT5V", "BATT"}.isdisjoint(watts)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("", "no rail with current and voltage"),
        ('error=1 error_msg="Command not registered"', "no rail with current and voltage"),
        ("     EXT5V_V volt(24)=4.87894000V\n", "no rail with current and voltage"),
        (PMIC[: PMIC.index("VDD_CORE_V")], "no voltage for 0V8_AON, 3V3_ADC, 3V3_DAC, HDMI, VDD_CORE"),
    ],
    ids=["empty", "refused", "no current", "cut off"],
)
def test_output_of_another_kind(output: str, problem: str) -> None:
    with pytest.raises(EnergyUnavailableError, match=problem):
        pmic.rail_watts(output)


def test_the_sum_of_the_rails_is_called_what_it_is(tmp_path: Path) -> None:
    provider = pmic.find(board(tmp_path), lambda: PMIC)
    assert provider.source == (
        "sum of 12 PMIC rails via vcgencmd pmic_read_adc; without converter losses, USB and other loads of the 5 V input"
    )
    stream = provider.stream(time.perf_counter)
    item = next(iter(stream))
    assert isinstance(item, PowerSample)
    assert item.watts == pytest.approx(sum(pmic.rail_watts(PMIC).values()))


@pytest.mark.parametrize("model", ["Raspberry Pi 500 Rev 1.0", "Raspberry Pi Compute Module 5 Rev 1.0"])
def test_other_boards_with_this_chip(model: str, tmp_path: Path) -> None:
    assert pmic.find(board(tmp_path, model), lambda: PMIC).name == "pmic"


def test_other_boards(tmp_path: Path) -> None:
    with pytest.raises(EnergyUnavailableError, match=r"not a Raspberry Pi 5 \(/proc/device-tree/model is missing\)"):
        pmic.find(tmp_path)
    with pytest.raises(EnergyUnavailableError, match=r"not a Raspberry Pi 5 \(this is a Raspberry Pi 4 Model B Rev 1.4\)"):
        pmic.find(board(tmp_path, "Raspberry Pi 4 Model B Rev 1.4"))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (FileNotFoundError(2, "No such file", "vcgencmd"), "vcgencmd is missing; install it"),
        (subprocess.TimeoutExpired("vcgencmd", 1), "did not answer"),
        (subprocess.CompletedProcess([], 255, "", "VCHI initialization failed"), "VCHI initialization failed.*usermod -aG video"),
        (subprocess.CompletedProcess([], 0, 'error=1 error_msg="Command not registered"', ""), "failed: error=1"),
    ],
    ids=["missing", "hanging", "forbidden", "refused"],
)
def test_the_command_fails(answer: object, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: object, **options: object) -> object:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(EnergyUnavailableError, match=problem):
        pmic.find(board(tmp_path))
