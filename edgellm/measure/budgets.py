"""Latency budgets: limits per platform profile, kept in a TOML file, checked against measured figures.

    [default]                            # every profile starts from these
    ttft_p95_ms = 2000
    [x86_64-linux]                       # `platform_profile()` of a machine, or any other name: replaces the defaults
    ttft_p95_ms = 600
    [x86_64-linux."test_latency[long]"]  # of one test only
    ttft_p95_ms = 2400

Keys are named like the figures that they bound, unit included. A limit is the most that the figure may be, or, of a rate (`*_per_second`),
the least.
"""

from __future__ import annotations

import math
import platform
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import InvalidRequestError
from edgellm.runtime.machine import read_text

DEFAULT = "default"


@dataclass(frozen=True)
class Verdict:
    """One budget and what was measured against it."""

    name: str
    measured: float
    limit: float

    @property
    def is_floor(self) -> bool:
        """Whether the limit is the least that the figure may be."""
        return self.name.endswith("_per_second")

    @property
    def kept(self) -> bool:
        """Whether the figure is within its limit."""
        return self.measured >= self.limit if self.is_floor else self.measured <= self.limit

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"kept": self.kept}

    def __str__(self) -> str:
        sign = (">=" if self.kept else "<") if self.is_floor else ("<=" if self.kept else ">")
        return f"{self.name} {self.measured:.4g} {sign} {self.limit:.4g}: {'pass' if self.kept else 'FAIL'}"


_BOARDS = {"Raspberry Pi 5 Model": "rpi5", "Raspberry Pi Zero 2 W": "rpi-zero2w"}
"""What the device tree's model starts with -> profile. Others of the same processor (Pi 500, compute modules) are cooled differently."""


def platform_profile() -> str:
    """The name of this machine's kind: "rpi5", "rpi-zero2w", "macos-arm64", else its processor and system: "x86_64-linux", ..."""
    board = read_text("/proc/device-tree/model") or ""
    for model, profile in _BOARDS.items():
        if board.startswith(model):
            return profile
    kind = f"{platform.machine()}-{platform.system()}".lower()
    return "macos-arm64" if kind == "arm64-darwin" else kind


@dataclass(frozen=True)
class Profile:
    """What a file says of one profile: limits for whichever test judges the figure, and for single tests."""

    everywhere: Mapping[str, float]
    of_test: Mapping[str, Mapping[str, float]]

    def limit(self, test: str, figure: str) -> float | None:
        """For this figure in this test."""
        return self.of_test.get(test, {}).get(figure, self.everywhere.get(figure))


@dataclass(frozen=True)
class Limits:
    """Profiles of a file; of a figure, the first that says anything decides."""

    profiles: tuple[Profile, ...]

    def for_test(self, test: str, named: Mapping[str, float]) -> dict[str, float]:
        """What a test is judged by: the figures that it names itself (its limits hold where the file says nothing), and those that are
        listed for it alone.
        """
        listed = [figure for profile in self.profiles for figure in profile.of_test.get(test, {})]
        return {figure: self._limit(test, figure, named) for figure in dict.fromkeys([*named, *listed])}

    def _limit(self, test: str, figure: str, named: Mapping[str, float]) -> float:
        said = (profile.limit(test, figure) for profile in self.profiles)
        return next((limit for limit in said if limit is not None), named.get(figure, math.nan))


def load_limits(path: Path, profile: str) -> Limits:
    """The limits that hold for a profile, the defaults among them; InvalidRequestError as `own_limits`."""
    return Limits(own_limits(path, profile).profiles + own_limits(path, DEFAULT).profiles)


def own_limits(path: Path, profile: str) -> Limits:
    """What the file lists for the profile itself, if anything; InvalidRequestError names the entry that is no limit."""
    table = read_profiles(path).get(profile, {})
    if not isinstance(table, dict):
        raise InvalidRequestError(f"{path}: {profile} = {table!r}; a profile is a table of limits")
    tests = {name: entry for name, entry in table.items() if isinstance(entry, dict)}
    everywhere = {name: entry for name, entry in table.items() if name not in tests}
    of_test = {test: checked_limits(f'{path}: [{profile}."{test}"]', entry) for test, entry in tests.items()}
    return Limits((Profile(checked_limits(f"{path}: [{profile}]", everywhere), of_test),))


def read_profiles(path: Path) -> dict[str, Any]:
    """The file's tables; InvalidRequestError if it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"cannot read the budgets {path}: {error}") from error


def checked_limits(where: str, limits: Mapping[str, Any]) -> dict[str, float]:
    """The limits as float; InvalidRequestError names the one that is not a number from 0 (no deadline missed) to what float holds."""
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 <= limit <= sys.float_info.max:
            raise InvalidRequestError(f"{where} {name} = {limit!r}; a budget is a finite number, at least 0")
    return {name: float(limit) for name, limit in limits.items()}
