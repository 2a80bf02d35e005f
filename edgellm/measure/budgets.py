"""Latency budgets: upper limits per platform profile, kept in a TOML file, checked against measured figures.

    [default]                 # every profile starts from these
    ttft_p95_ms = 2000
    [x86_64-linux]            # `platform_profile()` of a machine, or any other name: its own limits replace the defaults
    ttft_p95_ms = 600

Keys are named like the figures that they bound, unit included.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import InvalidRequestError
from edgellm.runtime.machine import read_text


@dataclass(frozen=True)
class Verdict:
    """One budget and what was measured against it."""

    name: str
    measured: float
    limit: float

    @property
    def kept(self) -> bool:
        """Whether the figure is within its limit."""
        return self.measured <= self.limit

    def __str__(self) -> str:
        return f"{self.name} {self.measured:.4g} {'<=' if self.kept else '>'} {self.limit:.4g}: {'pass' if self.kept else 'FAIL'}"


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


def load_budgets(path: Path, profile: str) -> dict[str, float]:
    """The limits that hold for a profile, the defaults among them; InvalidRequestError as `own_budgets`."""
    return own_budgets(path, "default") | own_budgets(path, profile)


def own_budgets(path: Path, profile: str) -> dict[str, float]:
    """The limits that the file lists for the profile itself, if any; InvalidRequestError names the entry that is not a positive number."""
    try:
        limits = tomllib.loads(path.read_text(encoding="utf-8")).get(profile, {})
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"cannot read the budgets {path}: {error}") from error
    for name, limit in limits.items():
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
            raise InvalidRequestError(f"{path}: [{profile}] {name} = {limit!r}; a budget is a positive number")
    return {name: float(limit) for name, limit in limits.items()}


def check(budgets: Mapping[str, float], figures: Mapping[str, float], prefix: str = "") -> list[Verdict]:
    """A verdict for every budget whose name starts with the prefix.

    Raises InvalidRequestError when there is no such budget, or one bounds a figure that was not measured: neither may pass unseen.
    """
    limits = {name: limit for name, limit in budgets.items() if name.startswith(prefix)}
    if not limits:
        raise InvalidRequestError(f"no budget is named {prefix}*; there are {', '.join(sorted(budgets)) or 'none'}")
    if unmeasured := sorted(set(limits) - set(figures)):
        raise InvalidRequestError(f"no figure was measured for the budget {', '.join(unmeasured)}; measured: {', '.join(sorted(figures))}")
    return [Verdict(name, figures[name], limit) for name, limit in limits.items()]
