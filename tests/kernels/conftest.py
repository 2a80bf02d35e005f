"""Kernels that this processor can't run are run by an emulator, where one is installed."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def emulated(emulation: None) -> None:
    """Of every test here that takes `isa`."""
