"""`--write` renews the goldens; without it the live references are compared with what is stored."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="store what the live reference implementations say as the new goldens")


@pytest.fixture
def write(request: pytest.FixtureRequest) -> bool:
    """Whether to renew the goldens."""
    return bool(request.config.getoption("--write", default=False))
