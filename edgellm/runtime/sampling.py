"""Logits -> the next token id. The same seed and logits give the same ids on every machine and NumPy version.

So the arithmetic is IEEE float64 additions, multiplications, divisions and comparisons only, in a fixed order: sums are
sequential (`np.add.accumulate`), sorts stable, `exp` our own, and random bits come raw from PCG64, whose stream NumPy keeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import PCG64

from edgellm.errors import EdgeLLMError, InvalidRequestError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
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
    """Draws one token after the other for one text; `params.seed` fixes all of them."""

    def __init__(self, params: SamplingParams, vocab_size: int) -> None:
        self._params = params
        self._vocab_size = vocab_size
        self._bits = PCG64(params.seed)

    def sample(self, logits: F32, history: Sequence[int] | I64 = ()) -> int:
        """The next token's id; among equals the lowest id comes first.

        logits:  [V]; -inf means never. EdgeLLMError if they hold NaN or +inf, or nothing but -inf.
        history: ids of the prompt and of what was generated, for the repetition penalty
        """
        if logits.shape != (self._vocab_size,):
            raise InvalidRequestError(f"logits have shape {logits.shape}; the sampler was made for ({self._vocab_size},)")
        scores: F32 | F64 = logits
        if self._params.repetition_penalty != 1:
            scores = _penalize(logits.astype(np.float64), np.asarray(history, dtype=np.int64), self._params.repetition_penalty)
        best = int(np.argmax(scores))  # the first NaN, if there is one
        if not math.isfinite(scores[best]):
            raise EdgeLLMError(f"the logits cannot be sampled from: the largest is {scores[best]} (token {best})")
        if self._params.temperature == 0:
            return best
        ids, weights = self._candidates(scores.astype(np.float64), float(scores[best]))
        total = np.add.accumulate(weights)
        point = (self._bits.random_raw() >> 11) * 2.0**-53 * total[-1]  # below total[-1], as the product rounds down
        return int(ids[np.searchsorted(total, point, side="right")])

    def _candidates(self, scores: F64, best: float) -> tuple[I64, F64]:
        """(ids, weights) of the tokens that the filters leave; weights are probabilities relative to the best token's."""
        params = self._params
        ids = largest(scores, params.top_k) if 0 < params.top_k < len(scores) else np.arange(len(scores))
        weights = exp((scores[ids] - best) / params.temperature)
        if params.top_p < 1:
            nucleus = _nucleus(weights, params.top_p)
            ids, weights = ids[nucleus], weights[nucleus]
        if params.min_p > 0:
            likely = weights >= params.min_p
            ids, weights = ids[likely], weights[likely]
        return ids, weights


def largest(values: F64, k: int) -> I64:
    """Positions of the k largest of n >= k values, the largest first, among equals the lowest position first."""
    threshold = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > threshold)
    level = np.flatnonzero(values == threshold)[: k - len(above)]
    return np.concatenate([above[np.argsort(-values[above], kind="stable")], level])


# exp(r) on |r| <= ln(2)/2 as FreeBSD's e_exp.c computes it: r * (exp(r) + 1) / (exp(r) - 1) = 2 + P1 r^2 + ... + P5 r^10
_P1 = 1.66666666666666019037e-01
_P2 = -2.77777777770155933842e-03
_P3 = 6.61375632143793436117e-05
_P4 = -1.65339022054652515390e-06
_P5 = 4.13813679705723846039e-08
_LN2_HIGH = 6.93147180369123816490e-01  # its last 20 bits are zero, so that k * _LN2_HIGH is exact
_LN2_LOW = 1.90821492927058770002e-10
_INVERSE_LN2 = 1.44269504088896338700e00
EXP_UNDERFLOW = -708.0


def exp(x: F64) -> F64:
    """e^x for x <= 0, within 1 ulp; 0 below EXP_UNDERFLOW, where results would be subnormal. -inf gives 0."""
    bounded = np.maximum(x, EXP_UNDERFLOW)
    k = np.rint(bounded * _INVERSE_LN2)
    high = bounded - k * _LN2_HIGH
    low = k * _LN2_LOW
    r = high - low
    t = r * r
    c = r - t * (_P1 + t * (_P2 + t * (_P3 + t * (_P4 + t * _P5))))
    fraction = 1.0 - ((low - (r * c) / (2.0 - c)) - high)
    power: F64 = ((k.astype(np.int64) + 1023) << 52).view(np.float64)
    return np.where(x < EXP_UNDERFLOW, 0.0, fraction * power)


def _penalize(scores: F64, history: I64, penalty: float) -> F64:
    if len(history) and not 0 <= int(history.min()) <= int(history.max()) < len(scores):
        raise InvalidRequestError(f"the history holds ids outside the vocabulary of {len(scores)} tokens")
    seen = scores[history]
    scores[history] = np.where(seen > 0, seen / penalty, seen * penalty)  # a repeated id writes the same value again
    return scores


def _nucleus(weights: F64, top_p: float) -> I64:
    """Positions of the fewest largest weights that add up to top_p of all, the largest first."""
    wanted = top_p * np.add.accumulate(weights)[-1]
    k = min(256, len(weights))
    while True:  # sorting a whole vocabulary costs more than anything else here, and the head nearly always suffices
        order = largest(weights, k)
        total = np.add.accumulate(weights[order])
        if total[-1] >= wanted or k == len(weights):
            return order[: int(np.searchsorted(total, wanted)) + 1]
        k = min(8 * k, len(weights))


def _require(condition: bool, name: str, value: float, possible: str) -> None:
    if not condition:
        raise InvalidRequestError(f"{name} is {value}; possible: {possible}")
