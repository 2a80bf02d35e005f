"""What a token of the real model takes from the system, in real time: see tests/unit/runtime/test_token_loop.py."""

from __future__ import annotations

from pathlib import Path

from tests.unit.runtime import token_loop

pytestmark = token_loop.NEEDS


def test_what_a_token_takes(tmp_path: Path, model_path: Path) -> None:
    token_loop.check(model_path, tmp_path)
