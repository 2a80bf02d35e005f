"""What the measurements of one pytest run share, for the plugin's hooks and its fixtures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgellm.measure.budgets import Limits
    from edgellm.measure.journal import Journal
    from edgellm.measure.progress import Progress
    from edgellm.measure.recorder import LatencyRecorder
    from edgellm.measure.telemetry import Bystanders

BUDGETS = "budgets.toml"
CLAIMS = "claims"
"""The profile of the project's claims: always shown, and what decides where it is asked for by name."""


@dataclass
class Run:
    """What the measurements of one pytest run share."""

    config: pytest.Config
    recorders: list[LatencyRecorder] = field(default_factory=list)
    journal: Journal | None = None
    energy: dict[str, Any] | None = None
    """Who measured it, or why nobody did; None where no test asked."""
    timetable_kept: str = ""
    """How a power meter's log is read for it; empty where none was kept."""

    def limits(self, test: Path) -> tuple[Limits, Limits]:
        """What decides in a test of this file, and the claims; UsageError for a broken file, and for a profile that it lacks."""
        from edgellm.errors import EdgeLLMError
        from edgellm.measure.budgets import Limits, load_limits, own_limits, read_profiles

        path = self.config.getoption("--budgets") or _nearest(test, self.config.rootpath)
        if path is None:
            if self.asked_profile:
                raise pytest.UsageError(
                    f"--platform-profile {self.asked_profile}: there is no {BUDGETS} above {test}; name it: --budgets FILE"
                )
            return Limits(()), Limits(())
        try:
            if self.asked_profile and self.asked_profile not in (known := read_profiles(path)):
                raise pytest.UsageError(f"--platform-profile {self.asked_profile}: {path} has no such profile; it has {', '.join(known)}")
            return load_limits(path, self.profile), own_limits(path, CLAIMS)
        except EdgeLLMError as error:
            raise pytest.UsageError(str(error)) from error

    @property
    def asked_profile(self) -> str | None:
        """By name, if any was."""
        asked: str | None = self.config.getoption("--platform-profile")
        return asked

    @cached_property
    def profile(self) -> str:
        """Whose budgets decide."""
        from edgellm.measure.budgets import platform_profile

        return self.asked_profile or platform_profile()

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """The machine and the build."""
        from edgellm.measure.fingerprint import fingerprint

        return fingerprint(self.config.rootpath)

    @cached_property
    def bystanders(self) -> Bystanders:
        """Who else used the processors since the first test that measures."""
        from edgellm.measure.telemetry import Bystanders

        return Bystanders()

    @cached_property
    def progress(self) -> Progress:
        """Shown past pytest's capture."""
        from edgellm.measure.progress import Progress

        capture = self.config.pluginmanager.getplugin("capturemanager")
        cache: pytest.Cache | None = getattr(self.config, "cache", None)  # not with -p no:cacheprovider
        took_s: Mapping[str, float] = cache.get(self.took_s_key, {}) if cache is not None else {}
        return Progress(took_s, capture.global_and_fixture_disabled if capture else nullcontext)

    @property
    def took_s_key(self) -> str:
        """Where pytest's cache holds what tests took in a run like this one."""
        rounds = self.config.getoption("--rounds") or ("quick" if self.config.getoption("--quick") else "all")
        return f"edgellm/took_s/{self.config.getoption('--backend').partition('=')[0]}-{rounds}"

    @property
    def json_path(self) -> Path | None:
        """Where pytest-benchmark writes, if it does."""
        path: Path | None = self.config.getoption("benchmark_json", None)
        return path


RUN = pytest.StashKey[Run]()
RECORDER = pytest.StashKey["LatencyRecorder"]()


def named_limits(item: pytest.Item) -> dict[str, float]:
    """The limits that the test's markers give, the closest marker's last word; UsageError for what is no limit."""
    markers = list(item.iter_markers("budget"))
    if not markers:  # as of every test of a suite that measures nothing
        return {}
    from edgellm.errors import InvalidRequestError
    from edgellm.measure.budgets import checked_limits

    named: dict[str, float] = {}
    for marker in reversed(markers):
        if marker.args:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.budget takes limits by name: budget(ttft_p95_ms=100)")
        try:
            named |= checked_limits(f"{item.nodeid}: @pytest.mark.budget", marker.kwargs)
        except InvalidRequestError as error:
            raise pytest.UsageError(str(error)) from error
    return named


def _nearest(test: Path, root: Path) -> Path | None:
    """The budgets.toml closest to the test, from its folder up to the root of the run."""
    for folder in test.parents:
        if (folder / BUDGETS).is_file():
            return folder / BUDGETS
        if folder == root:
            break
    return None
