"""The golden files: what the reference implementations said (made by `nox -s parity -- --write`) and what this engine is to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
REPORTED = "reported"


@pytest.fixture(scope="session")
def engine_golden() -> Any:
    """engine.json. Every machine has to give these bits: change them only with a change that is meant to change the logits."""
    return json.loads((GOLDEN / "engine.json").read_text())


@pytest.fixture(scope="session")
def prompts() -> dict[str, list[int]]:
    """Name -> token ids of the prompts that the reference logits were recorded for."""
    return {record["name"]: record["ids"] for record in json.loads((GOLDEN / "logits.json").read_text())["prompts"]}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests reported with `record_property("reported", ...)`: numbers to be seen also when all is well."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    lines = sorted(str(value) for report in reports for name, value in report.user_properties if name == REPORTED and report.when == "call")
    if lines:
        terminalreporter.section("distance from transformers in float32")
        terminalreporter.write_line("\n".join(lines))
