"""Drawing a token, stated in NumPy: csrc/sample.c does it to the same bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellm.runtime.sampling import SamplingParams

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def draw(params: SamplingParams, logits: F32, history: I64, uniform: float) -> tuple[int, I64, F64]:
    """The token's id, and the candidates: their ids, and their weights added up. Logits are finite or -inf, and not all -inf."""
    scores = penalize(logits.astype(np.float64), history, params.repetition_penalty)
    ids, weights = candidates(params, scores, scores.max())
    total = np.add.accumulate(weights)
    return int(ids[np.searchsorted(total, uniform * total[-1], side="right")]), ids, total


def penalize(scores: F64, history: I64, penalty: float) -> F64:
    """A positive score of a token in the history is divided by the penalty, a negative one multiplied."""
    seen = scores[history]
    scores[history] = np.where(seen > 0, seen / penalty, seen * penalty)  # a repeated id writes the same value again
    return scores


def candidates(params: SamplingParams, scores: F64, best: float) -> tuple[I64, F64]:
    """(ids, weights) of the tokens that the filters leave; weights are probabilities relative to the best token's."""
    ids = largest(scores, params.top_k) if 0 < params.top_k < len(scores) else np.arange(len(scores))
    weights = exp((scores[ids] - best) / params.temperature)
    if params.top_p < 1:
        nucleus = fewest_largest(weights, params.top_p)
        ids, weights = ids[nucleus], weights[nucleus]
    likely = weights >= params.min_p
    return ids[likely], weights[likely]


def largest(values: F64, k: int) -> I64:
    """Positions of the k largest of n >= k values, the largest first, among equals the lowest position first."""
    return np.argsort(-values, kind="stable")[:k]


def fewest_largest(weights: F64, top_p: float) -> I64:
    """Positions of the fewest largest weights that add up to top_p of all, the largest first."""
    order = largest(weights, len(weights))
    return order[: int(np.searchsorted(np.add.accumulate(weights[order]), top_p * np.add.accumulate(weights)[-1])) + 1]


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
