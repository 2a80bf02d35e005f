"""An engine without the kernels' rounding of activations, for measuring what that costs: everything in float32 BLAS, and slowly."""

from __future__ import annotations

from pathlib import Path

from edgellm.formats import open_checkpoint
from edgellm.model.decoder import forward
from edgellm.ops.dense import Dense, Rounding
from edgellm.runtime.engine import Engine
from edgellm.runtime.weights import load_dense


class DenseEngine(Engine):
    """The same model and weights as float32 matrices, keys and values in float32, and activations as `activations` says.

    It takes four bytes for each weight and the threads of NumPy's BLAS, whose sums differ from one build to the next. Errors as `Engine`.
    """

    def __init__(self, path: Path, *, activations: Rounding = "float32", threads: int | None = None, context: int | None = None) -> None:
        super().__init__(path, threads=threads, context=context, kv_dtype="f32", keep_exact_activations=True)
        ops, weights = Dense(activations), load_dense(open_checkpoint(path), self.config)
        self.plan = None
        self._replay = lambda: forward(ops, self.config, weights, self._state, self._step)
