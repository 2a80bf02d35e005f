"""The synthetic model as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.formats.tmac2 import write_tmac2
from tests.unit.runtime.synthetic import checkpoint


@pytest.fixture(scope="session")
def synthetic_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    """Two layers, 271 tokens, every scheme."""
    path = tmp_path_factory.mktemp("model") / "synthetic.tmac2.bin"
    write_tmac2(path, checkpoint(tokenizer_json))
    return path
