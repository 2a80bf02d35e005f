"""A calibration text for models with the synthetic vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(np.random.default_rng(0).choice(["a", "abc", "bd", "ee ab", "dcb"], 600)))
    return path
