"""The Raspberry Pi 5's power chip (PMIC), asked with `vcgencmd pmic_read_adc`.

It prints one value per line, the current and the voltage of a rail apart:

       VDD_CORE_A current(7)=1.54489000A
       VDD_CORE_V volt(15)=0.88725180V
         EXT5V_V volt(24)=4.87894000V

The power of a rail is their product; rails are paired by name. EXT5V (the input) and BATT (the clock's battery) have no current, so what
the board draws from its supply is not known: the sum of the rails lacks the losses of the converters and whatever hangs on the 5 V
input itself (USB, hats, NVMe). Corrections are published, each fitted to one board; none is used here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgellm.measure.energy.provider import Clock, EnergyUnavailableError, Kind, PowerStream
from edgellm.measure.energy.sampler import PolledStream

MODELS = ("Raspberry Pi 5", "Raspberry Pi Compute Module 5")
"""How device-tree/model begins where there is this chip: "Raspberry Pi 5 Model B Rev 1.0", "Raspberry Pi 500 Rev 1.0", ..."""
RATE_HZ = 10.0
"""Each question starts a process; more of them would warm what they measure."""
TIMEOUT_S = 1.0

_LINE = re.compile(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+\.\d+)\2\s*$", re.MULTILINE)

Ask = Callable[[], str]


class PmicProvider:
    """The sum of the rails."""

    name = "pmic"
    kind: Kind = "measured"
    sample_rate_hz = RATE_HZ

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.source = (
            f"sum of {len(rail_watts(ask()))} PMIC rails via vcgencmd pmic_read_adc; "
            "without converter losses, USB and other loads of the 5 V input"
        )

    def stream(self, clock: Clock) -> PowerStream:
        """See `PowerProvider.stream`."""
        return PolledStream(lambda: sum(rail_watts(self._ask()).values()), RATE_HZ, clock)


def rail_watts(output: str) -> dict[str, float]:
    """The power of each rail that has both current and voltage; EnergyUnavailableError for output that is not as above."""
    values: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in _LINE.findall(output):
        values[unit][rail] = float(value)
    if alone := sorted(set(values["A"]) - set(values["V"])):
        raise EnergyUnavailableError(f"vcgencmd pmic_read_adc: no voltage for {', '.join(alone)}; was its output cut off?")
    if not values["A"]:
        raise EnergyUnavailableError(f"vcgencmd pmic_read_adc: no rail with current and voltage in its output {output[:100]!r}")
    return {rail: amperes * values["V"][rail] for rail, amperes in values["A"].items()}


def find(root: Path, ask: Ask | None = None) -> PmicProvider:
    """The chip of the board that this root's device tree names; EnergyUnavailableError says why not."""
    try:
        model = (root / "proc/device-tree/model").read_text(encoding="utf-8").rstrip("\0\n")
    except (OSError, UnicodeDecodeError):
        model = ""
    if not model.startswith(MODELS):
        raise EnergyUnavailableError(f"not a Raspberry Pi 5 ({f'this is a {model}' if model else '/proc/device-tree/model is missing'})")
    return PmicProvider(ask or _vcgencmd)


def _vcgencmd() -> str:
    try:
        done = subprocess.run(
            ["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise EnergyUnavailableError("vcgencmd is missing; install it: `sudo apt install raspi-utils`") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnergyUnavailableError(f"vcgencmd pmic_read_adc did not answer: {error}") from error
    if done.returncode != 0 or "error=" in done.stdout:
        said = (done.stderr or done.stdout).strip()
        raise EnergyUnavailableError(f"vcgencmd pmic_read_adc failed: {said}. If it may not open /dev/vcio: `sudo usermod -aG video $USER`")
    return done.stdout
