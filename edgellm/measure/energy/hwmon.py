"""INA219, INA226 and their kin: chips that measure a supply line over a shunt, as Linux shows them below /sys/class/hwmon.

Format: Documentation/hwmon/ina2xx.rst of the kernel. `name` is the chip, `power1_input` microwatts; where a driver has none, the power is
`curr1_input` (milliamperes) times `in1_input` (millivolts of the line; `in0_input` is the shunt's). All of it is scaled by the shunt's
resistance that the driver was told, `shunt_resistor` in microohms: a wrong one makes every number wrong, so it stands in the source.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgellm.measure.energy.provider import Clock, EnergyUnavailableError, Kind, PowerStream
from edgellm.measure.energy.sampler import PolledStream

HWMON = "sys/class/hwmon"
RATE_HZ = 50.0
"""Unless the chip says that it averages for longer (`update_interval`, milliseconds)."""

_CHIP = re.compile(r"ina2\d\d")


class HwmonProvider:
    """One chip."""

    name = "hwmon"
    kind: Kind = "measured"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._has_power = (folder / "power1_input").exists()
        self.sample_rate_hz = _rate_hz(folder)
        shunt = f", shunt {_read(folder / 'shunt_resistor')} microohm" if (folder / "shunt_resistor").exists() else ""
        how = "power1_input" if self._has_power else "curr1_input x in1_input"
        self.source = f"{_text(folder / 'name')} at {folder.name}, {how}{shunt}; the line that it is wired into"
        self.watts()  # what cannot be read is found out here, not in the middle of a run

    def watts(self) -> float:
        """Now; EnergyUnavailableError."""
        if self._has_power:
            return _read(self._folder / "power1_input") / 1e6
        return _read(self._folder / "curr1_input") * _read(self._folder / "in1_input") / 1e6

    def stream(self, clock: Clock) -> PowerStream:
        """See `PowerProvider.stream`."""
        return PolledStream(self.watts, self.sample_rate_hz, clock)


def find(root: Path, device: str = "") -> HwmonProvider:
    """The chip at this device ("hwmon3"), or the only one below this root; EnergyUnavailableError says why not."""
    if not (root / HWMON).is_dir():
        raise EnergyUnavailableError(f"no INA219/INA226 (/{HWMON} is missing)")
    chips = {folder.name: folder for folder in sorted((root / HWMON).iterdir()) if _CHIP.fullmatch(_name(folder))}
    there = ", ".join(f"{at} ({_name(folder)})" for at, folder in chips.items())
    if not chips or (device and device not in chips):
        raise EnergyUnavailableError(f"no INA219/INA226{f' at {device}' if device else ''} in /{HWMON}; there is {there or 'none'}")
    if len(chips) > 1 and not device:
        raise EnergyUnavailableError(f"several power meters, and which line each is in is not known: {there}; name one, as in hwmon=hwmon3")
    return HwmonProvider(chips[device] if device else next(iter(chips.values())))


def _name(folder: Path) -> str:
    try:
        return _text(folder / "name")
    except EnergyUnavailableError:
        return ""  # not every device has one


def _rate_hz(folder: Path) -> float:
    interval = folder / "update_interval"
    return min(RATE_HZ, 1e3 / max(1, _read(interval))) if interval.exists() else RATE_HZ


def _read(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError as error:
        raise EnergyUnavailableError(f"{path} says {text!r}, not a whole number") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EnergyUnavailableError(f"cannot read {path}: {error}") from error
