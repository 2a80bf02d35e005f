"""Calibration text: what is drawn from it, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.quantize.training.tokens import read_text, windows

TEXTS = [np.arange(100, 200), np.arange(200, 300)]


def test_windows_are_drawn_by_the_seed_in_equal_parts_and_begin_in_each_way() -> None:
    drawn = windows(TEXTS, 16, 10, seed=0, bos_id=7, vocabulary=50)
    assert np.array_equal(drawn, windows(TEXTS, 16, 10, seed=0, bos_id=7, vocabulary=50))
    assert not np.array_equal(drawn, windows(TEXTS, 16, 10, seed=1, bos_id=7, vocabulary=50))
    assert (np.diff(drawn[:, 1:], axis=1) == 1).all()
    assert ((drawn[:, 1] >= 200) == (np.arange(16) % 2 == 1)).all()
    begins = drawn[:, 0]
    assert (begins == 7).sum() == 8
    assert ((begins < 50) & (begins != 7)).sum() + (begins == drawn[:, 1] - 1).sum() == 8
    assert (windows(TEXTS, 16, 10, seed=0, bos_id=None, vocabulary=50)[:, 0] != 7).any()


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="has 100 tokens; a window takes 101"):
        windows(TEXTS, 1, 101, seed=0, bos_id=None, vocabulary=50)


def test_text_is_read_plain_or_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("so é", encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("so é".encode()))
    assert read_text(tmp_path / "a.txt") == read_text(tmp_path / "a.txt.gz") == "so é"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "no UTF-8 text can be read"),
        ("a.txt", b"a\0b", "is binary"),
        ("a.gz", b"plain", "no UTF-8 text can be read"),
        ("a.gz", gzip.compress(b"text" * 100)[:20], "no UTF-8 text can be read"),
        ("a.txt", None, "No such file"),
    ],
)
def test_what_is_no_text_is_refused(name: str, data: bytes | None, message: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidRequestError, match=message):
        read_text(tmp_path / name)
