"""Logits -> the next token id. The same seed and logits give the same ids on every machine and NumPy version.

So the arithmetic (csrc/sample.c) is IEEE float64 additions, multiplications, divisions and comparisons only, in a fixed order: sums are
sequential, sorts stable, `exp` our own; and random bits come raw from PCG64, whose stream NumPy keeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64

from edgellm.errors import EdgeLLMError, InvalidRequestError
from edgellm.ops.drawing import Drawing

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn; the filters apply in this order, each to what the one before left over.

    repetition_penalty: a positive logit of a token in the history is divided by it, a negative one multiplied (1 = off)
                        (Keskar et al. 2019, arXiv:1909.05858)
    temperature:        logits are divided by it; 0 = the most probable token, always (the filters below change nothing then)
    top_k:              keep the k most probable tokens (0 = all)
    top_p:              keep the fewest most probable tokens that together have this probability (1 = all)
                        (Holtzman et al. 2020, arXiv:1904.09751)
    min_p:              keep tokens at least this many times as probable as the most probable one (0 = all)
                        (Nguyen et al. 2024, arXiv:2407.01082)
    seed:               of the random numbers
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.temperature == 0 or 1e-6 <= self.temperature <= 1e6, "temperature", self.temperature, "0, or 1e-6 to 1e6")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, up to 1 (off)")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "0 (off) to 1")
        _require(0.01 <= self.repetition_penalty <= 100, "repetition_penalty", self.repetition_penalty, "0.01 to 100 (1 = off)")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")


class Sampler:
    """Draws one token after the other for one text; `params.seed` fixes all of them. Its memory is taken once, not for each token. For one
    thread at a time.
    """

    def __init__(self, params: SamplingParams, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._bits = PCG64(params.seed)
        self._temperature = params.temperature
        self._penalizes = params.repetition_penalty != 1
        self._drawing: Drawing | None = None
        if self._temperature or self._penalizes:
            self._drawing = Drawing(
                vocab_size,
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
                min_p=params.min_p,
                repetition_penalty=params.repetition_penalty,
            )

    def sample(self, logits: F32, history: Sequence[int] | I64 = ()) -> int:
        """The next token's id; among equals the lowest id comes first.

        logits:  float32 [V]; -inf means never. EdgeLLMError if they hold NaN or +inf, or nothing but -inf.
        history: ids of the prompt and of what was generated, for the repetition penalty
        """
        if logits.shape != (self._vocab_size,) or logits.dtype != np.float32:
            raise InvalidRequestError(
                f"logits are {logits.dtype} and have shape {logits.shape}; the sampler was made for float32 ({self._vocab_size},)"
            )
        token_id = _most_probable(logits) if self._drawing is None else self._draw(self._drawing, logits, history)
        if token_id < 0:
            worst = -1 - token_id
            raise EdgeLLMError(f"the logits cannot be sampled from: the largest is {logits[worst]} (token {worst})")
        return token_id

    def _draw(self, drawing: Drawing, logits: F32, history: Sequence[int] | I64) -> int:
        penalized = _as_ids(history) if self._penalizes else _NOTHING
        uniform = (self._bits.random_raw() >> 11) * 2.0**-53 if self._temperature else 0.0
        return drawing.draw(np.ascontiguousarray(logits), penalized, uniform)


def _as_ids(history: Sequence[int] | I64) -> I64:
    try:
        return np.ascontiguousarray(history, np.int64)
    except OverflowError as error:
        raise InvalidRequestError(f"the history holds ids outside the vocabulary: {error}") from error


def _most_probable(logits: F32) -> int:
    best = int(np.argmax(logits))  # the first NaN, if there is one
    return best if math.isfinite(logits[best]) else -1 - best


_NOTHING = np.empty(0, np.int64)


def _require(condition: bool, name: str, value: float, possible: str) -> None:
    if not condition:
        raise InvalidRequestError(f"{name} is {value}; possible: {possible}")
