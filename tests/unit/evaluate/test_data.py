from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from edgellm.errors import FetchError
from edgellm.evaluate import data

NAME = "wikitext2_test.raw.txt.gz"


def test_text_is_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " = Robert Boulter = \n naïve"
    (tmp_path / NAME).write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("EDGELLM_DATA", str(tmp_path))
    monkeypatch.setattr(data, "WIKITEXT2_TEST_SHA256", hashlib.sha256(text.encode()).hexdigest())
    assert data.wikitext2_test() == text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read"),
        (b"no gzip", "cannot read"),
        (gzip.compress(b"cut off")[:-4], "cannot read"),
        (gzip.compress(b"")[:10] + b"\xff" * 20, "cannot read"),
        (gzip.compress(b"another text"), "is not the WikiText-2 raw test text"),
    ],
    ids=["missing", "no gzip", "cut off", "corrupt", "another text"],
)
def test_missing_or_altered_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / NAME).write_bytes(content)
    monkeypatch.setenv("EDGELLM_DATA", str(tmp_path))
    with pytest.raises(FetchError, match=problem):
        data.wikitext2_test()


@pytest.mark.parametrize("value", [None, ""])
def test_no_folder(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("EDGELLM_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("EDGELLM_DATA", value)
    with pytest.raises(FetchError, match="EDGELLM_DATA is not set"):
        data.wikitext2_test()
