"""What Linux says of the machine at this moment: how fast its cores run, how warm they are, whether they are held back, how busy a GPU is.

    frequency_mhz          of each processor: cpufreq's scaling_cur_freq, else /proc/cpuinfo's, which is what `frequency_source` says
    temperature_c          of the warmest of the processor's thermal zones, else of its hwmon chip
    throttled_now, throttled_since_boot    names of what holds a Raspberry Pi back (`THROTTLED`), [] if nothing does
    throttle_count         how often x86 cores were throttled for heat since the machine started, all together
    gpu_utilisation        share of the last moment in which each GPU was busy, 0..1

What the machine does not have, or does not tell, is None, and so is a single file that has gone or gives an error. The files are
looked for once. Commands (vcgencmd, nvidia-smi) take milliseconds and wake what they ask, so each runs at most every
COMMAND_PERIOD_S: in between what only it knows is None. Everything else takes 0.01 ms a file.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgellm.runtime.machine import output_of, read_text

ROOT = Path("/")
COMMAND_PERIOD_S = 5.0

CPU_ZONES = re.compile(r"x86_pkg_temp|TCPU|(cpu|soc)[\w-]*[-_]thermal")
"""Types of thermal zones that are the processor's: of Intel, of its drivers for Windows laptops, of ARM boards."""

CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
"""Names of hwmon chips that are; the first input of each is the package."""

THROTTLED = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
"""Bits 0.. of the firmware's word are what is so now, bits 16.. what was so since the machine started (vcgencmd's get_throttled)."""

Command = Callable[..., str | None]


class Sensors:
    """Those of the machine whose files lie under `root`; `run` runs a command and gives its output, or None."""

    def __init__(self, root: Path = ROOT, run: Command = output_of) -> None:
        cpus = root / "sys/devices/system/cpu"
        self._cpuinfo = root / "proc/cpuinfo"
        self._frequencies = _numbered(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._counts = [
            *cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"),
            *cpus.glob("cpu0/thermal_throttle/package_throttle_count"),
        ]
        self._temperatures = _temperature_files(root)
        self._firmware = next((root / "sys/devices/platform").glob("soc*/*:firmware/get_throttled"), None)
        self._vcgencmd = _Occasional(run, "vcgencmd", "get_throttled")
        self._gpus = _numbered((root / "sys/class/drm").glob("card[0-9]*/device/gpu_busy_percent"))
        self._nvidia_smi = _Occasional(run, "nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")

    def levels(self) -> dict[str, Any]:
        """The fields above, of this moment, but for `throttle_count`."""
        frequency_mhz, frequency_source = self._frequency()
        now, since_boot = throttled(read_text(self._firmware) if self._firmware else self._vcgencmd.output())
        return {
            "frequency_mhz": frequency_mhz,
            "frequency_source": frequency_source,
            "temperature_c": self._temperature(),
            "throttled_now": now,
            "throttled_since_boot": since_boot,
            "gpu_utilisation": self._gpu_utilisation(),
        }

    def throttle_count(self) -> int | None:
        """As above; None once a single core's count can't be read, because the sum would be of others than before."""
        counts = [_number(read_text(path)) for path in self._counts]
        known = [count for count in counts if count is not None]
        return sum(known) if known and len(known) == len(counts) else None

    def _frequency(self) -> tuple[list[float | None] | None, str | None]:
        if self._frequencies:
            return [_scaled(path, 1e-3) for path in self._frequencies], "scaling_cur_freq"
        megahertz = cpuinfo_mhz(read_text(self._cpuinfo))
        return (list(megahertz), "cpuinfo") if megahertz else (None, None)

    def _temperature(self) -> float | None:
        return max((value for path in self._temperatures if (value := _scaled(path, 1e-3)) is not None), default=None)

    def _gpu_utilisation(self) -> list[float | None] | None:
        if self._gpus:
            return [_scaled(path, 1e-2) for path in self._gpus]
        return nvidia_utilisation(self._nvidia_smi.output())


class _Occasional:
    """A command that runs at most every COMMAND_PERIOD_S, and never where there is none."""

    def __init__(self, run: Command, *words: str) -> None:
        self._run = run
        self._words = words if shutil.which(words[0]) else ()
        self._due = 0.0

    def output(self) -> str | None:
        """What it prints; None while it is not due, or when it fails."""
        if not self._words or time.monotonic() < self._due:
            return None
        text = self._run(*self._words)
        self._due = time.monotonic() + COMMAND_PERIOD_S
        return text


def throttled(text: str | None) -> tuple[list[str], list[str]] | tuple[None, None]:
    """What holds back now, and what did since the machine started, of "throttled=0x50005", or "50005" as sysfs has it."""
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", (text or "").strip())
    if not match:
        return None, None
    bits = int(match[1], 16)
    now, since_boot = ([name for bit, name in enumerate(THROTTLED) if bits >> first + bit & 1] for first in (0, 16))
    return now, since_boot


def cpuinfo_mhz(text: str | None) -> list[float]:
    """Each processor's "cpu MHz" of /proc/cpuinfo; ARM's has none."""
    return [float(value) for value in re.findall(r"^cpu MHz\s*: (\d+\.\d+)$", text or "", re.MULTILINE)]


def nvidia_utilisation(text: str | None) -> list[float | None] | None:
    """Shares of nvidia-smi's lines of percentages, a line for each GPU; None for one that prints "[N/A]"."""
    percentages = [_number(line) for line in (text or "").splitlines()]
    known = [None if percent is None else percent / 100 for percent in percentages]
    return known if any(value is not None for value in known) else None


def _temperature_files(root: Path) -> list[Path]:
    zones = _numbered((root / "sys/class/thermal").glob("thermal_zone[0-9]*/temp"))
    ours = [zone for zone in zones if CPU_ZONES.fullmatch(read_text(zone.with_name("type")) or "")]
    chips = _numbered((root / "sys/class/hwmon").glob("hwmon[0-9]*/temp1_input"))
    return ours or [chip for chip in chips if read_text(chip.with_name("name")) in CPU_CHIPS]


def _numbered(paths: Iterable[Path]) -> list[Path]:
    """In the order of their numbers: cpu10 comes after cpu9."""
    return sorted(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))])


def _scaled(path: Path, unit: float) -> float | None:
    value = _number(read_text(path))
    return None if value is None else value * unit


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text.strip()) else None
