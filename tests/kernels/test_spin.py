"""The probe of the machine's noise does its work, on every thread, and notes each piece."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.ops import native

QUICKEST_MULTIPLICATION_NS = 0.15  # a processor of 6.6 GHz that took one cycle for what takes three


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_all_threads_work(threads: int) -> None:
    chunk_ns = native.spin(native.Pool(threads), 10_000, 7)
    assert chunk_ns.dtype == np.int64
    assert chunk_ns.shape == (threads, 7)
    assert chunk_ns.min() >= 10_000 * QUICKEST_MULTIPLICATION_NS


@pytest.mark.parametrize(("iterations", "chunks"), [(0, 1), (1, 0), (-1, 1)])
def test_no_work(iterations: int, chunks: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"at least one iteration and one chunk are needed, not {iterations} and {chunks}"):
        native.spin(native.Pool(1), iterations, chunks)
