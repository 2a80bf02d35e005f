"""The golden files, as fixtures; `golden.py` says what they are and makes this engine's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e import golden


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="store what the engine says now as what it is to say")


@pytest.fixture(scope="session")
def engine_golden(request: pytest.FixtureRequest, model_gguf: Path, prompts: golden.Prompts) -> Any:
    """engine.json."""
    if request.config.getoption("--write-golden", default=False):
        golden.write(model_gguf, request.getfixturevalue("model_path"), prompts)
    return golden.read(golden.ENGINE, model_gguf)


@pytest.fixture(scope="session")
def prompts(model_gguf: Path) -> golden.Prompts:
    """Name -> token ids of the prompts that the reference logits were recorded for."""
    return {record["name"]: record["ids"] for record in golden.read(golden.GOLDEN / "logits.json", model_gguf)["prompts"]}
