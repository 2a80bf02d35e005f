"""Which provider there is on this machine, and why the others are not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import EdgeLLMError, InvalidRequestError
from edgellm.measure.energy import hwmon, pmic, powermetrics, rapl
from edgellm.measure.energy.live_log import LiveLogProvider
from edgellm.measure.energy.provider import EnergyUnavailableError, Provider

ROOT = Path("/")
LATER = "later"
"""Asked for by this name: a power meter's log that comes after the run, for which the run keeps a timetable."""


@dataclass(frozen=True)
class Detected:
    """One name: its provider, or why there is none."""

    name: str
    provider: Provider | None
    why_not: str = ""


def choose(asked: str, root: Path = ROOT) -> Provider:
    """The provider that is asked for: a name, or NAME=ARGUMENT ("hwmon=hwmon3", "usb-meter=live.log").

    EnergyUnavailableError: it is not to be had here, or will be read later. InvalidRequestError: there is no such name, or it takes no
    argument.
    """
    if asked == LATER:
        raise EnergyUnavailableError("nobody reads it during the run; the fixture energy_runs keeps a timetable for the meter's log")
    name, equals, argument = asked.partition("=")
    finders = _finders(root)
    if name not in finders:
        raise InvalidRequestError(f"the energy provider {name!r} is unknown; known: {', '.join([*finders, LATER])}")
    if equals and name not in _TAKE_ARGUMENT:
        raise InvalidRequestError(f"{asked}: {name} takes no argument; {' and '.join(_TAKE_ARGUMENT)} do")
    return finders[name](argument)


def detect(root: Path = ROOT) -> list[Detected]:
    """Every name, the one that is used unless another is asked for before those that come after it."""
    return [_detected(name, find) for name, find in _finders(root).items()]


def find_provider(root: Path = ROOT) -> Provider | None:
    """The first that there is; what `detect` says otherwise, `not_available` puts into words."""
    return next((found.provider for found in detect(root) if found.provider), None)


def not_available(detected: Sequence[Detected]) -> str:
    """What stands in a table where energy would: "n/a: ..." with every reason."""
    return f"n/a: {'; '.join(dict.fromkeys(found.why_not for found in detected if not found.provider))}"


def lines(detected: Sequence[Detected]) -> str:
    """One per name: kind, sampling rate, and the source or why there is none."""
    return "\n".join(f"{name:14}{kind:11}{rate:9}{words}" for name, kind, rate, words in map(_row, detected))


def facts(found: Detected) -> dict[str, Any]:
    """One provider, for JSON."""
    provider = found.provider
    if provider is None:
        return {"name": found.name, "available": False, "why_not": found.why_not}
    rate = provider.sample_rate_hz
    return {"name": found.name, "available": True, "kind": provider.kind, "source": provider.source, "sample_rate_hz": rate}


_TAKE_ARGUMENT = ("hwmon", "usb-meter")


def _finders(root: Path) -> dict[str, Callable[[str], Provider]]:
    """What covers the whole machine's supply line comes before what covers parts of it, and measured before estimated."""
    return {
        "hwmon": functools.partial(hwmon.find, root),
        "rapl": lambda _: rapl.find(root),
        "pmic": lambda _: pmic.find(root),
        "powermetrics": lambda _: powermetrics.find(),
        "rapl-psys": lambda _: rapl.find_psys(root),
        "usb-meter": _live_log,
    }


def _live_log(path: str) -> Provider:
    if not path:
        raise EnergyUnavailableError(
            f"no USB power meter was named (usb-meter=LOG, the log that its program is writing; {LATER}, for one that comes after the run)"
        )
    return LiveLogProvider(Path(path))


def _detected(name: str, find: Callable[[str], Provider]) -> Detected:
    try:
        return Detected(name, find(""))
    except EdgeLLMError as error:
        return Detected(name, None, str(error))


def _row(found: Detected) -> tuple[str, ...]:
    provider = found.provider
    if provider is None:
        return found.name, "n/a", "", found.why_not
    rate = "counter" if provider.sample_rate_hz is None else f"{provider.sample_rate_hz:g} Hz"
    return found.name, provider.kind, rate, provider.source
