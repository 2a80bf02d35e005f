"""A folder of small evaluation files, one record a line, for tasks that lm-eval asks a synthetic model."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Write = Callable[[str, Sequence[Any]], Path]


@pytest.fixture
def write_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """write("x.jsonl.gz", lines): into a folder that EDGELLM_DATA names; bytes are written as they are, all else as JSON."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("EDGELLM_DATA", str(folder))

    def write(name: str, lines: Sequence[Any]) -> Path:
        content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        (folder / name).write_bytes(gzip.compress(content))
        return folder / name

    return write
