from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure import budgets
from edgellm.measure.budgets import Verdict, check, load_budgets, own_budgets, platform_profile
from edgellm.measure.statistics import summarize

BUDGETS = Path(__file__).parents[2] / "perf" / "budgets.toml"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "budgets.toml"
    file.write_text("[default]\nttft_p95_ms = 900\nitl_p99_ms = 50\n[x86_64-linux]\nttft_p95_ms = 100\n")
    return file


def test_profile_overrides_default(path: Path) -> None:
    assert load_budgets(path, "x86_64-linux") == {"ttft_p95_ms": 100, "itl_p99_ms": 50}
    assert load_budgets(path, "riscv64-linux") == {"ttft_p95_ms": 900, "itl_p99_ms": 50}


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


def test_budgets_of_this_machine_are_sound() -> None:
    limits = load_budgets(BUDGETS, platform_profile())
    assert {"ttft_p95_ms", "itl_p95_ms", "itl_mad_ms", "peak_rss_mib"} <= set(limits)


def test_claims() -> None:
    """The project's goals; whoever moves one moves it here too."""
    assert own_budgets(BUDGETS, "claims") == {"ttft_p95_ms": 100, "itl_std_ms": 10, "busy_core_ratio": 1.25, "oversubscribed_ratio": 1.5}


@pytest.mark.parametrize("profile", ["default", platform_profile()])
def test_a_stall_of_the_machine_breaks_no_budget(profile: str) -> None:
    """Two stalls of 500 ms among 100 tokens of 3 ms each."""
    summary = summarize([3.0] * 98 + [500.0] * 2)
    limits = {name: limit for name, limit in load_budgets(BUDGETS, profile).items() if name.startswith("itl_")}
    figures = {"itl_p50_ms": summary.p50, "itl_p95_ms": summary.p95, "itl_mad_ms": summary.mad}
    assert all(verdict.kept for verdict in check(limits, figures))


@pytest.mark.parametrize("value", ["0", "-1", "nan", "true", '"fast"', "[1]"])
def test_a_budget_is_a_positive_number(path: Path, value: str) -> None:
    path.write_text(f"[default]\nttft_p95_ms = {value}\n")
    with pytest.raises(InvalidRequestError, match=r"\[default\] ttft_p95_ms = .* positive number"):
        load_budgets(path, "any")


@pytest.mark.parametrize("text", ["[default", "\xff"])
def test_broken_file(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequestError, match="cannot read the budgets"):
        load_budgets(path, "any")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"absent\.toml"):
        load_budgets(tmp_path / "absent.toml", "any")


def test_verdicts(path: Path) -> None:
    limits = load_budgets(path, "x86_64-linux")
    assert check(limits, {"ttft_p95_ms": 100.0, "ttft_p50_ms": 80.0}, "ttft_") == [Verdict("ttft_p95_ms", 100.0, 100.0)]
    kept, broken = check(limits, {"ttft_p95_ms": 100.0, "itl_p99_ms": 50.1})
    assert (kept.kept, broken.kept) == (True, False)
    assert str(kept) == "ttft_p95_ms 100 <= 100: pass"
    assert str(broken) == "itl_p99_ms 50.1 > 50: FAIL"


def test_an_unmeasured_budget_does_not_pass() -> None:
    with pytest.raises(InvalidRequestError, match="no figure was measured for the budget itl_p99_ms; measured: itl_p50_ms"):
        check({"itl_p99_ms": 1}, {"itl_p50_ms": 1})


def test_a_measurement_without_budget_does_not_pass() -> None:
    with pytest.raises(InvalidRequestError, match=r"no budget is named ttft_\*; there are itl_p99_ms"):
        check({"itl_p99_ms": 1}, {"ttft_p50_ms": 1}, "ttft_")
