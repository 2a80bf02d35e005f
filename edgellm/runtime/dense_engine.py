"""An engine in float32 BLAS over dequantised weights: the baseline of every comparison, and what the kernels' activations cost.

It gives what the file says, GGUF or any other that is read, whether or not the kernels have its types of weights. And it is slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from edgellm.formats.checkpoint import Checkpoint
from edgellm.model.decoder import forward
from edgellm.ops.dense import Dense, Rounding
from edgellm.runtime.engine import Engine, Execution
from edgellm.runtime.weights import load_dense

BASELINE = "the source file dequantised to float32, float32 activations"
"""What results call the engine of a source file."""
CHUNK = 256  # tokens that are run at once


class DenseEngine(Engine):
    """The model of a file, its weights float32, keys and values float32, and activations as `activations` says.

    It takes four bytes for each weight and the threads of NumPy's BLAS, whose sums differ from one build to the next; `threads` only
    score. Errors as `Engine`.
    """

    def __init__(self, path: Path, *, activations: Rounding = "float32", threads: int | None = None, context: int | None = None) -> None:
        self._ops = Dense(activations)
        super().__init__(path, threads=threads, context=context, kv_dtype="f32", prefill_chunk=CHUNK)

    def _prepare(self, checkpoint: Checkpoint, how: Execution) -> Callable[[], None]:  # noqa: ARG002  it is about kernels
        ops, config, weights, step = self._ops, self.config, load_dense(checkpoint, self.config), self._step
        self._weights_bytes = 4 * sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
        self._state, self._arenas = self._allocate(all_taken=False, per_token=False, exact=True)
        state = self._state
        return lambda: forward(ops, config, weights, state, step)

    def memory(self) -> dict[str, int]:
        """As of any engine."""
        return {"weights": self._weights_bytes} | super().memory()
