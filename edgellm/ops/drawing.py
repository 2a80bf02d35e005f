"""Drawing a token in C."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError
from edgellm.ops.compiled import ffi, lib, pointer
from edgellm.ops.interface import F32, I32, I64
from edgellm.ops.native import ISAS, choose_isa

F64 = npt.NDArray[np.float64]


class Drawing:
    """How tokens are drawn of a vocabulary (the parameters are `runtime.sampling.SamplingParams`'), and the room for it. The same bits
    with every instruction set. For one thread at a time.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        isa: str | None = None,
    ) -> None:
        if not 1 <= vocab_size < 1 << 30:
            raise InvalidRequestError(f"a token can't be drawn of {vocab_size}")
        self._ids = np.empty(vocab_size, np.int32)
        self._sums, self._scratch = np.empty((2, vocab_size), np.float64)
        self._ranked, self._room = np.empty((2, vocab_size * ffi.sizeof("el_ranked")), np.uint8)
        self._sampler = ffi.new("el_sampler *", {
            "isa": ISAS.index(choose_isa(isa)), "vocabulary": vocab_size, "top_k": min(top_k, vocab_size),
            "temperature": temperature, "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
            "weights": pointer("double *", self._sums), "ids": pointer("int32_t *", self._ids),
            "sums": pointer("double *", self._scratch),
            "ranked": pointer("el_ranked *", self._ranked), "room": pointer("el_ranked *", self._room),
        })  # fmt: skip

    def draw(self, logits: F32, history: I64, uniform: float) -> int:
        """The id of the token that `uniform`, in [0, 1), falls on; the most probable one at temperature 0. -1 - id where that one's
        logit is NaN or infinite, so that there is nothing to draw.

        logits:  float32 [V]
        history: int64 [any], ids that the repetition penalty is for
        """
        size = len(self._ids)
        if logits.dtype != np.float32 or logits.shape != (size,) or history.dtype != np.int64 or history.ndim != 1:
            found = f"{logits.dtype} {logits.shape} and {history.dtype} {history.shape}"
            raise InvalidRequestError(f"logits float32 ({size},) and a history int64 (n,) were expected, not {found}")
        if not 0 <= uniform < 1:
            raise InvalidRequestError(f"a token is drawn by a number from 0 to 1, without 1, not {uniform}")
        token = int(lib.el_sample(self._sampler, pointer("float *", logits), pointer("int64_t *", history), len(history), uniform))
        if token == -1 - size:
            raise InvalidRequestError(f"the history holds ids outside the vocabulary of {size} tokens")
        return token

    @property
    def candidates(self) -> tuple[I32, F64]:
        """Of the last draw: the ids of the tokens that the filters left, and their weights, relative to the best token's, added up."""
        count = self._sampler.candidates
        return self._ids[:count], self._sums[:count]
