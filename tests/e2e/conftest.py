"""The golden files: what the reference implementations said (made by `nox -s parity -- --write`) and what this engine is to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def engine_golden() -> Any:
    """engine.json. Every machine has to give these bits: change them only with a change that is meant to change the logits."""
    return json.loads((GOLDEN / "engine.json").read_text())


@pytest.fixture(scope="session")
def prompts() -> dict[str, list[int]]:
    """Name -> token ids of the prompts that the reference logits were recorded for."""
    return {record["name"]: record["ids"] for record in json.loads((GOLDEN / "logits.json").read_text())["prompts"]}
