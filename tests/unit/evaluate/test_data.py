from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from edgellm.errors import FetchError, InvalidRequestError
from edgellm.evaluate import data

NAME = "wikitext2_test.raw.txt.gz"


def test_text_is_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " = Robert Boulter = \n naïve"
    (tmp_path / NAME).write_bytes(gzip.compress(text.encode()))
    monkeypatch.setenv("EDGELLM_DATA", str(tmp_path))
    monkeypatch.setattr(data, "FILES", {"wikitext2_test": (NAME, hashlib.sha256(text.encode()).hexdigest())})
    assert data.wikitext2_test() == text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read"),
        (b"no gzip", "cannot read"),
        (gzip.compress(b"cut off")[:-4], "cannot read"),
        (gzip.compress(b"")[:10] + b"\xff" * 20, "cannot read"),
        (gzip.compress(b"another text"), "is not the text wikitext2_test"),
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


def test_the_smoke_text_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELLM_DATA", raising=False)
    assert len(data.text("smoke")) > 100_000


@pytest.mark.parametrize("name", ["own.txt", "own.txt.gz"])
def test_any_text_file_is_a_text(tmp_path: Path, name: str) -> None:
    content = "Grüße\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert data.text(str(tmp_path / name)) == "Grüße\n"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("wikitext3", None, "neither a file nor one of wikitext2_test, tinyshakespeare, smoke"),
        ("empty.txt", b" \n", "is empty"),
        ("binary.txt", b"GGUF\xff\x00", "is no text in UTF-8"),
    ],
)
def test_what_is_no_text(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequestError, match=problem):
        data.text(str(tmp_path / name) if content is not None else name)


def test_a_cut_off_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.txt.gz").write_bytes(gzip.compress(b"cut off")[:-4])
    with pytest.raises(FetchError, match="cannot read"):
        data.text(str(tmp_path / "own.txt.gz"))
