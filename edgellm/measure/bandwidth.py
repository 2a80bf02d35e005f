"""Read bandwidth of memory, measured with the threads that the kernels run on: the roof over everything that streams weights.

What can be read in a second depends on how much there is to read, because caches hold some of it. So the probe reads as many bytes
as the model that it is compared with, again and again, as a model's weights are read token after token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edgellm.measure.statistics import percentile
from edgellm.ops import native
from edgellm.runtime.workspace import Arena

SETTLE_S = 0.01
"""Rest between a probe and what it is compared with: threads spin for a while after their work, and would be in the other's way."""


class ReadProbe:
    """A pool of `threads` and `nbytes` (rounded up to whole blocks) on huge pages where there are any, as weights lie."""

    def __init__(self, nbytes: int, threads: int) -> None:
        self.nbytes = -(-nbytes // native.READ_BLOCK) * native.READ_BLOCK
        self.threads = threads
        self.pool = native.Pool(threads)
        self._data = Arena(self.nbytes, huge_pages=True).empty((self.nbytes,), np.uint8)
        self._data.fill(1)  # a page that was never written is the system's one page of zeros, which the caches hold

    def read(self) -> None:
        """Read everything once."""
        native.read(self._data, self.pool)

    def read_ns(self) -> int:
        """Nanoseconds to read everything once, right after it was read: what the caches keep of it, they have."""
        self.read()
        start = time.perf_counter_ns()
        self.read()
        return time.perf_counter_ns() - start

    def bytes_per_second(self, samples_ns: Sequence[int]) -> float:
        """What the median of such times means."""
        return self.nbytes * 1e9 / percentile(samples_ns, 50)
