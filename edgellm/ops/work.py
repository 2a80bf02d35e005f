"""How much an op has to do: what measurements set against its time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgellm.formats.matrix import Scheme
from edgellm.ops.interface import Step


@dataclass(frozen=True)
class Work:
    """The work of one op in any step, which has T tokens cached before its L new ones.

    dims, scheme:       [N, K] of weights and their scheme; else what a vector or the queries are made of
    weight_bytes:       read once in a step, whatever L is
    bytes_per_token:    read for each new token, of a table
    bytes_per_position: of keys and values, read for each of the T + L positions that a token sees
    per_token:          multiplications, each with an addition, for every token that it handles
    per_pair:           the same for every pair of such a token and a position that it sees
    outputs_only:       it handles only the step's last n_outputs tokens
    window:             a token sees no more than so many positions, its own the last of them
    """

    dims: tuple[int, ...]
    scheme: Scheme | None = None
    weight_bytes: int = 0
    bytes_per_token: int = 0
    bytes_per_position: int = 0
    per_token: int = 0
    per_pair: int = 0
    outputs_only: bool = False
    window: int | None = None

    @property
    def shape(self) -> str:
        """The dimensions, and the scheme of weights: "576 x 1536 int4-min-g32"."""
        dims = " x ".join(map(str, self.dims))
        return f"{dims} {self.scheme}" if self.scheme else dims

    def streamed_bytes(self, step: Step) -> int:
        """Bytes of weights, keys and values that a step reads, each counted once."""
        total = step.position + step.n_tokens
        positions = total if self.window is None else min(total, self.window - 1 + step.n_tokens)
        return self.weight_bytes + self.bytes_per_token * step.n_tokens + self.bytes_per_position * positions

    def operations(self, step: Step) -> int:
        """Multiplications and their additions in a step: two for each of the counts above."""
        tokens = step.n_outputs if self.outputs_only else step.n_tokens
        seen = np.arange(step.position + 1, step.position + tokens + 1)
        pairs = int(seen.sum() if self.window is None else np.minimum(seen, self.window).sum())
        return 2 * (self.per_token * tokens + self.per_pair * pairs)


@dataclass(frozen=True)
class RecordedOp:
    """An op of a plan: its name among `Ops`, the C function that runs it, and its work."""

    name: str
    kernel: str
    work: Work
