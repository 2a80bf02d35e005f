"""How much is scored."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--windows", type=int, default=8, help="windows of 1024 tokens scored beside a live peer; 0: the whole text (default 8)"
    )
    parser.addoption("--items", type=int, default=500, help="items of a task whose speed is measured; 0: all (default 500)")
