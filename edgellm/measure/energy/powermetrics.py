"""macOS: `powermetrics --samplers cpu_power -f plist`, a stream of property lists, a NUL byte before each but the first.

Keys (powermetrics(1) and its output): `elapsed_ns`, the time that a document is the average of; in `processor`, `combined_power`, the
milliwatts of CPU, GPU and neural engine (Apple's processors), or `package_joules`, the energy of that time (Intel's). The manual calls
these values estimated and not to be compared between devices, and so they are marked.
"""

from __future__ import annotations

import math
import os
import plistlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any
from xml.parsers.expat import ExpatError

from edgellm.measure.energy.provider import Clock, EnergyUnavailableError, Kind, MissedSample, PowerSample, PowerStream

INTERVAL_MS = 200
COMMAND = ("powermetrics", "--samplers", "cpu_power", "-i", str(INTERVAL_MS), "-f", "plist")


class PowermetricsProvider:
    """What the processor's package draws, by its maker's estimate."""

    name = "powermetrics"
    kind: Kind = "estimated"
    sample_rate_hz = 1e3 / INTERVAL_MS
    source = "macOS powermetrics, the processor's package (CPU, GPU, neural engine); without display, storage and power supply"

    def stream(self, clock: Clock) -> PowerStream:
        """See `PowerProvider.stream`."""
        return PowermetricsStream(COMMAND, clock)


class PowermetricsStream:
    """The process that samples, and what it says."""

    def __init__(self, command: tuple[str, ...], clock: Clock) -> None:
        self._clock = clock
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe that nobody reads would fill up)
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._complaints)
        except OSError as error:
            self._complaints.close()
            raise EnergyUnavailableError(f"powermetrics does not start: {error}") from error
        self._closed = False

    def __iter__(self) -> Iterator[PowerSample | MissedSample]:
        with self._complaints, self._process as process:
            for document in documents(process.stdout or ()):
                yield sample(document, self._clock())
            status = process.wait()
            self._complaints.seek(0)
            said = self._complaints.read().decode(errors="replace").strip()
        if not self._closed:
            raise EnergyUnavailableError(f"powermetrics ended with {status}: {said or 'it did not say why'}")

    def close(self) -> None:
        """See `PowerStream.close`."""
        self._closed = True
        self._process.terminate()


def documents(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The property lists of the stream, each as soon as it is complete; one that was cut off at the end is left out.

    The NUL comes with the next document, one interval late, so the closing tag is what is waited for.
    """
    collected: list[bytes] = []
    for line in lines:
        collected.append(line)
        if line.rstrip().endswith(b"</plist>"):
            yield b"".join(collected).strip(b"\0\n")
            collected.clear()


def sample(document: bytes, arrived_s: float) -> PowerSample | MissedSample:
    """The average of one interval, which ended when its document arrived, as a sample at its middle."""
    try:
        content = plistlib.loads(document)
        seconds = float(content["elapsed_ns"]) / 1e9
        watts = _watts(content["processor"], seconds)
    except (plistlib.InvalidFileException, ExpatError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        return MissedSample(arrived_s, f"powermetrics: a sample without elapsed_ns, combined_power or package_joules ({error!r})")
    return PowerSample(arrived_s - seconds / 2, watts)


def find(platform: str = sys.platform, user_id: int | None = None) -> PowermetricsProvider:
    """On macOS, for root; EnergyUnavailableError says why not."""
    if platform != "darwin":
        raise EnergyUnavailableError("not macOS (no powermetrics)")
    if (os.geteuid() if user_id is None else user_id) != 0:
        raise EnergyUnavailableError("powermetrics answers root only: run the same command with sudo")
    return PowermetricsProvider()


def _watts(processor: dict[str, Any], seconds: float) -> float:
    watts = processor["combined_power"] / 1e3 if "combined_power" in processor else processor["package_joules"] / seconds
    if not math.isfinite(watts):
        raise ValueError(f"{watts} W")
    return float(watts)
