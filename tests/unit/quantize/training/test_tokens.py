"""Calibration text: what is drawn from it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.quantize.training.tokens import windows

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
