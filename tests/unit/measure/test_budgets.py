from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure import budgets
from edgellm.measure.budgets import Verdict, checked_limits, load_limits, own_limits, platform_profile, read_profiles

BUDGETS = Path(__file__).parents[2] / "perf" / "budgets.toml"
FILE = """
[default]
ttft_p95_ms = 900
itl_p99_ms = 50
[default."test_latency[long]"]
e2e_p95_ms = 3000
ttft_p95_ms = 2000
[x86_64-linux]
ttft_p95_ms = 100
[x86_64-linux."test_latency[short]"]
ttft_p95_ms = 20
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "budgets.toml"
    file.write_text(FILE)
    return file


@pytest.mark.parametrize(
    ("profile", "test", "named", "limits"),
    [
        ("x86_64-linux", "test_latency[medium]", {"ttft_p95_ms": 1}, {"ttft_p95_ms": 100}),  # the profile before the test's own
        ("x86_64-linux", "test_latency[medium]", {"itl_p99_ms": 1}, {"itl_p99_ms": 50}),  # the default before the test's own
        ("x86_64-linux", "test_latency[medium]", {"itl_p50_ms": 1}, {"itl_p50_ms": 1}),  # the test's own where the file says nothing
        ("x86_64-linux", "test_latency[medium]", {}, {}),  # no test is judged by what it does not name, ...
        ("x86_64-linux", "test_latency[short]", {}, {"ttft_p95_ms": 20}),  # ... unless it is listed for it alone
        ("x86_64-linux", "test_latency[long]", {}, {"e2e_p95_ms": 3000, "ttft_p95_ms": 100}),  # a profile before the default's test
        ("riscv64-linux", "test_latency[long]", {"ttft_p95_ms": 1}, {"ttft_p95_ms": 2000, "e2e_p95_ms": 3000}),
    ],
)
def test_which_limit_holds(path: Path, profile: str, test: str, named: dict[str, float], limits: dict[str, float]) -> None:
    assert load_limits(path, profile).for_test(test, named) == limits


@pytest.mark.parametrize("profile", ["default", "x86_64-linux", "rpi5", "rpi-zero2w", "macos-arm64", "claims", platform_profile()])
def test_the_projects_own_budgets_are_sound(profile: str) -> None:
    limits = load_limits(BUDGETS, profile).for_test("test_latency[medium]", {"ttft_p95_ms": 0, "run_jitter_std_ms": 0, "peak_rss_mib": 0})
    assert all(limit > 0 for limit in limits.values())


def test_every_platform_of_the_roadmap_has_a_profile() -> None:
    assert {"default", "x86_64-linux", "rpi5", "rpi-zero2w", "macos-arm64", "claims"} <= set(read_profiles(BUDGETS))


@pytest.mark.parametrize(
    ("board", "machine", "system", "profile"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", "Linux", "rpi5"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64", "Linux", "rpi-zero2w"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "armv7l", "Linux", "rpi-zero2w"),
        ("Raspberry Pi 500 Rev 1.0", "aarch64", "Linux", "aarch64-linux"),
        ("Raspberry Pi 4 Model B Rev 1.4", "aarch64", "Linux", "aarch64-linux"),
        (None, "x86_64", "Linux", "x86_64-linux"),
        (None, "AMD64", "Windows", "amd64-windows"),
        (None, "arm64", "Darwin", "macos-arm64"),
        (None, "x86_64", "Darwin", "x86_64-darwin"),
    ],
)
def test_platform_profiles(board: str | None, machine: str, system: str, profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "read_text", {"/proc/device-tree/model": board}.get)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "system", lambda: system)
    assert platform_profile() == profile


def test_claims() -> None:
    """The project's goals; whoever moves one moves it here too."""
    claims = own_limits(BUDGETS, "claims")
    assert claims.for_test("test_latency[medium]", {}) == {"ttft_p95_ms": 100, "run_jitter_std_ms": 10}
    assert claims.for_test("test_memory", {}) == {"peak_rss_mib": 512}


@pytest.mark.parametrize("value", ["-1", "nan", "inf", pytest.param("1" + "0" * 400, id="huge"), "true", '"fast"', "[1]"])
def test_a_budget_is_a_finite_number(path: Path, value: str) -> None:
    path.write_text(f"[default]\nttft_p95_ms = {value}\n")
    with pytest.raises(InvalidRequestError, match=r"\[default\] ttft_p95_ms = .* a finite number, at least 0"):
        load_limits(path, "any")


def test_a_budget_of_one_test_is_a_finite_number(path: Path) -> None:
    path.write_text('[default."test_x[y]"]\nttft_p95_ms = -2\n')
    with pytest.raises(InvalidRequestError, match=r'\[default."test_x\[y\]"\] ttft_p95_ms = -2; a budget is a finite number'):
        load_limits(path, "any")


def test_a_profile_that_is_no_table(path: Path) -> None:
    path.write_text("default = 7")
    with pytest.raises(InvalidRequestError, match="default = 7; a profile is a table"):
        load_limits(path, "any")


def test_no_deadline_missed_is_a_budget() -> None:
    assert checked_limits("@pytest.mark.budget", {"itl_deadline_misses": 0}) == {"itl_deadline_misses": 0.0}


@pytest.mark.parametrize("text", ["[default", "\xff", pytest.param("a = " + "[" * 100_000, id="nested")])
def test_broken_file(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequestError, match="cannot read the budgets"):
        load_limits(path, "any")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"absent\.toml"):
        load_limits(tmp_path / "absent.toml", "any")


@pytest.mark.parametrize(
    ("verdict", "kept", "said"),
    [
        (Verdict("ttft_p95_ms", 100.0, 100.0), True, "ttft_p95_ms 100 <= 100: pass"),
        (Verdict("itl_p99_ms", 50.1, 50.0), False, "itl_p99_ms 50.1 > 50: FAIL"),
        (Verdict("tokens_per_second", 50.1, 50.0), True, "tokens_per_second 50.1 >= 50: pass"),  # of a rate, the least
        (Verdict("tokens_per_second", 49.9, 50.0), False, "tokens_per_second 49.9 < 50: FAIL"),
        (Verdict("itl_deadline_misses", 0, 0), True, "itl_deadline_misses 0 <= 0: pass"),
        (Verdict("itl_deadline_misses", 1, 0), False, "itl_deadline_misses 1 > 0: FAIL"),
        (Verdict("joules_per_token", 0.1, 0.2), True, "joules_per_token 0.1 <= 0.2: pass"),
    ],
)
def test_verdicts(verdict: Verdict, kept: bool, said: str) -> None:
    assert (verdict.kept, str(verdict)) == (kept, said)
    assert verdict.record() == {"name": verdict.name, "measured": verdict.measured, "limit": verdict.limit, "kept": kept}


def test_limits_of_a_marker() -> None:
    assert checked_limits("@pytest.mark.budget", {"ttft_p95_ms": 100}) == {"ttft_p95_ms": 100.0}
    with pytest.raises(InvalidRequestError, match="budget ttft_p95_ms = -1; a budget is a finite number"):
        checked_limits("@pytest.mark.budget", {"ttft_p95_ms": -1})
