"""The baseline of every comparison: a model as its file says it, weights dequantised to float32, activations not quantized at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import ContextOverflowError
from edgellm.formats import open_checkpoint
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import forward
from edgellm.ops.dense import Dense
from edgellm.ops.interface import KEY_TILE, Step
from edgellm.runtime.weights import load_dense
from edgellm.runtime.workspace import new_cache, new_state

F32 = npt.NDArray[np.float32]

NAME = "the source file dequantised to float32, float32 activations"
CHUNK = 256  # tokens that are run at once


class Dequantised:
    """The model of a file, GGUF or any other that is read, in NumPy; texts have up to `context` tokens."""

    def __init__(self, path: Path, context: int) -> None:
        checkpoint = open_checkpoint(path)
        self.config = ModelConfig.from_hf(checkpoint.config)
        self.context = context
        self._weights = load_dense(checkpoint, self.config)
        room = -(-context // KEY_TILE) * KEY_TILE
        cache, _ = new_cache(self.config, room, np.float32)
        self._state, _ = new_state(self.config, cache, min(CHUNK, context), room, exact=True)

    def logits(self, token_ids: Sequence[int]) -> F32:
        """Logits float32 [L, V] at every position; ContextOverflowError for more tokens than the context."""
        if len(token_ids) > self.context:
            raise ContextOverflowError(f"{len(token_ids)} tokens were given; the baseline was made for {self.context}")
        out = np.empty((len(token_ids), self.config.vocab_size), np.float32)
        ops, step = Dense(), Step()
        for start in range(0, len(token_ids), CHUNK):
            ids = token_ids[start : start + CHUNK]
            self._state.tokens_L[: len(ids)] = ids
            step.set(start, len(ids), len(ids))
            forward(ops, self.config, self._weights, self._state, step)
            out[start : start + len(ids)] = self._state.logits_LV[: len(ids)]
        return out
