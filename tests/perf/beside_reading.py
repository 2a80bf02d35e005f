"""Decoding beside plain reading: how much of what memory can deliver a model gets out of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edgellm.measure import bench
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.bandwidth import SETTLE_S, ReadProbe
from edgellm.measure.roofline import streamed_bytes
from edgellm.measure.statistics import percentile


class BesideReading:
    """Decodes, and reads as many bytes as a token streams, with as many threads."""

    def __init__(self, model: Path, case: bench.Case, threads: int) -> None:
        self.case, self.threads = case, threads
        self.backend = EdgeLLMBackend(model, threads=threads, context=case.context)
        assert self.backend.engine.plan is not None
        self.streamed_bytes = streamed_bytes(self.backend.engine.plan.ops, position=case.depth + case.tokens // 2)
        self.probe = ReadProbe(self.streamed_bytes, threads)
        self.read_ns: list[int] = []
        self.itl_ns: list[int] = []

    def take_a_turn(self, keep: bool) -> None:
        """A round of the case, and of reading; one that is not kept warms up."""
        time.sleep(SETTLE_S)
        read_ns = [self.probe.read_ns() for _ in range(self.case.tokens // 2)]
        time.sleep(SETTLE_S)
        itl_ns = self.case.run(self.backend)
        if keep:
            self.read_ns += read_ns
            self.itl_ns += itl_ns

    @property
    def itl_ms(self) -> float:
        """The median inter-token latency."""
        return percentile(self.itl_ns, 50) / 1e6

    @property
    def decoded(self) -> float:
        """Bytes a second that decoding streams."""
        return self.streamed_bytes * 1e3 / self.itl_ms

    @property
    def readable(self) -> float:
        """Bytes a second that reading alone gives."""
        return self.probe.bytes_per_second(self.read_ns)

    def record(self) -> dict[str, Any]:
        """For the results file."""
        return {"n_threads": self.threads, "streamed_bytes": self.streamed_bytes, "read_ns": self.read_ns, "itl_ns": self.itl_ns}
