"""The probe of read bandwidth reads every byte once, however the threads share them."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.ops import native


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("blocks", [0, 1, 3, 1001])
def test_every_word_is_read_once(blocks: int, threads: int) -> None:
    data = np.random.default_rng(blocks).integers(256, size=blocks * native.READ_BLOCK, dtype=np.uint8)
    assert native.read(data, native.Pool(threads)) == int(np.bitwise_xor.reduce(data.view(np.uint64)))


def test_part_of_a_block() -> None:
    with pytest.raises(InvalidRequestError, match="multiple of 256 bytes, not 100"):
        native.read(np.zeros(100, np.uint8), native.Pool(1))
