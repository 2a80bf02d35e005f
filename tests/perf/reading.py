"""A backend that only reads: how soon this machine's memory delivers what a model streams for a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgellm.measure import bench, roofline
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.backends.protocol import F32
from edgellm.measure.bandwidth import ReadProbe

SETTLE_S = 0.2
"""Rest before each turn: threads spin for a while after their work, and would be in the other's way."""


def streamed_bytes(model: EdgeLLMBackend, case: bench.Case) -> int:
    """What it streams for a token in the middle of the case."""
    assert model.engine.plan is not None
    return roofline.streamed_bytes(model.engine.plan.ops, position=case.depth + case.tokens // 2)


class Reading:
    """`TokenBackend` that for each token reads as many bytes as `model` streams amid the case, on as many threads; no logits."""

    name = "reading alone"

    def __init__(self, model: EdgeLLMBackend, case: bench.Case) -> None:
        self.model, self.vocab_size, self.threads = model, model.vocab_size, model.threads
        self.streamed_bytes = streamed_bytes(model, case)
        self._probe = ReadProbe(self.streamed_bytes, model.threads)

    def prefill(self, token_ids: Sequence[int]) -> F32:
        """Nothing is kept, so nothing is read."""
        return np.empty(0, np.float32)

    def decode(self, token_id: int) -> F32:
        """Read everything once."""
        self._probe.read()
        return np.empty(0, np.float32)

    def logits(self, token_ids: Sequence[int]) -> F32:
        """None."""
        return np.empty((len(token_ids), 0), np.float32)

    def description(self) -> dict[str, Any]:
        """The model's own."""
        return self.model.description() | {"streamed_bytes": self.streamed_bytes}

    def unload(self) -> None:
        """The memory goes with the object."""
