"""Stops before a single test when the compiled module is missing or older than the C sources beside it."""

from __future__ import annotations

import pytest

from csrc.build_native import csrc_hash
from edgellm.errors import NativeError


def pytest_sessionstart() -> None:
    """Compare the hash that was compiled in with the sources' hash."""
    try:
        from edgellm.ops import native
    except NativeError as error:
        pytest.exit(str(error), returncode=2)
    if native.csrc_hash() != csrc_hash():
        pytest.exit("the compiled module is older than csrc/. Rebuild it: make setup", returncode=2)
