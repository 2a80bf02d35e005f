"""How far a float32 kernel may lie from the same sum in exact arithmetic.

u = 2^-24 is the unit roundoff: each float32 operation gives its exact result times (1 + d), |d| <= u, unless that result is subnormal.
n such factors together lie within 1 +- gamma(n), gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
So a chain of n fused multiply-adds over terms t_i that had m roundings each lies within gamma(n + m) sum|t_i| of the sum, whatever the
order, and a sum of positive terms within gamma(n + m) of it relatively. The reference is computed in float64 (its own n 2^-53 is below
u for every n here) and rounded once: + u |result|.

matmul     a group's part is a chain of at most B_g fmas over exact isums, each isum rounded once where it passes 2^24; the J groups'
           P parts are a chain of J P fmas, and with minimums of B more, whose x_scaled_sum had 2 roundings. Adding to what was
           there rounds once: gamma(B_g + J P + 4), with minimums gamma(B_g + J P + B + 4), times
           sum_k (sum_p |scale_p code_p| + |minimum|) |x_k| + |before|.
norm       K / 16 fmas a lane and 4 additions sum squares, which are positive: gamma(K / 16 + 4) relatively, halved by the root, then
           +eps, / K, root, 1 / ., times x, times weight.
exp        r = x - n ln 2 is off by u |r| at most, |r| <= 0.35; Horner's last step rounds by u, the one before by u |r| / e^r <= 0.42 u,
           all earlier ones by 0.1 u; the polynomial is truncated by 0.1 u: 2 u in sum, and 3 u with the error of ln 2's parts.
gate       g / (1 + exp(-y)) up: exp, 1 + ., g / ., times up, y = g for SiLU. For GELU y = g (a + b g^2) is a product of positive terms
           and of at most 4 roundings, constants included, times g: off by D = gamma(4) |y|, hence exp(-y) by a factor e^D, and
           1 + exp(-y) by the share that exp(-y) has of it. Where -y > 88 exp stops growing, and the result is below |g up| e^-88.
add, relu2 one rounding; two products.
attention  a score is E fmas and a product: off by D = gamma(E + 2) |scale| sum|q k|. A key's weight is the product of n exps at most, n
           the number of blocks: one within its block, one for each merge from its block's on. Their arguments are differences
           of largests, each rounded by u times itself: by 3 u R in all, R the scores' range and at most 88, where exp stops, once
           within the block, once where it is merged, once for the rises of the largest after it. So each weight is off by
           e^(D + 3 u R) (1 + 3 n u) relatively, and so is their sum. Of B keys a block, the sum rounds B / 16 + 4 times and the fmas
           of the values B times, each merge both twice; 1 / sum and the product once each. Keys below e^-87 count as e^-87.
score      x - m rounds by u |x - m|, so that exp is off by it and by its own roundings, those below e^-87 by all they are; a block's
           sum rounds 512 / 16 + 4 times. What is relatively off of the sum is what its logarithm is off by. The rest is float64: 8
           roundings at most, of numbers up to |m| + |x| + log V.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import BLOCK, Scheme
from edgellm.ops.interface import ATTENTION_KEYS, GateActivation

F64 = npt.NDArray[np.float64]

U = 2.0**-24
EXP = 3  # roundings that exp counts for
TINY = 2.0**-149  # the spacing of subnormal float32
F16_U, F16_TINY = 2.0**-11, 2.0**-24
SCORE_BLOCK = 512  # logits whose sum is float32


def gamma(n: int) -> float:
    """How far n roundings may take a product of factors 1 + d from 1."""
    return n * U / (1 - n * U)


def matmul(magnitudes: F64, scheme: Scheme, cols: int) -> F64:
    """magnitudes: sum_k (sum_p |scale_p code_p| + |minimum|) |x_k|, and what was accumulated to."""
    blocks, groups = cols // BLOCK, scheme.groups(cols)
    longest = min(blocks, scheme.group // BLOCK) if isinstance(scheme.group, int) else blocks
    roundings = longest + groups * scheme.planes + scheme.has_min * blocks + 4
    return gamma(roundings) * magnitudes + roundings * TINY


def norm(cols: int) -> float:
    """Relative, of a normed element."""
    return gamma((cols // 16 + 4 + 2) // 2 + 5)


def exponent(gate: npt.NDArray[Any], activation: GateActivation) -> F64:
    """y."""
    wide = gate.astype(np.float64)
    return np.asarray(wide if activation == "silu" else 2 * np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))


def gate(gate: npt.NDArray[Any], activation: GateActivation) -> F64:
    """Relative, of an element whose y is above -88."""
    y = np.clip(exponent(gate, activation), -88, 88)
    off = 0.0 if activation == "silu" else np.expm1(gamma(4) * np.abs(y)) / (1 + np.exp(y))
    return np.asarray(gamma(EXP + 3) + off)


def rope(low: npt.NDArray[Any], high: npt.NDArray[Any], cos: npt.NDArray[Any], sin: npt.NDArray[Any]) -> F64:
    """Of low cos - high sin and of high cos + low sin: two products, one sum, and the reference's own rounding."""
    sizes = np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64))
    widest = np.maximum(np.abs(cos), np.abs(sin)).astype(np.float64)
    return np.asarray(gamma(3) * (sizes[0] + sizes[1]) * widest + 2 * TINY)


def attention(score_magnitudes: F64, score_range: F64, values: F64, tokens: int, head_dim: int) -> F64:
    """score_magnitudes: the largest |scale| sum|q k|; score_range: largest less smallest score; values: the largest |v|; each [L, H]."""
    blocks, keys = -(-tokens // ATTENTION_KEYS), min(tokens, ATTENTION_KEYS)
    off = gamma(head_dim + 2) * score_magnitudes + 3 * U * np.minimum(score_range, 88)
    relative = np.expm1(2 * off) + 2 * gamma(EXP * blocks) + gamma(keys + keys // 16 + 4 + 4 * (blocks - 1) + 4)
    return np.asarray(values * (relative + 2 * tokens * np.exp(-87.0)) + TINY)


def score(logits: npt.NDArray[np.float32]) -> F64:
    """Of -log p by each row of logits [L, V]: [L]."""
    wide = logits.astype(np.float64)
    below = wide - wide.max(axis=1, keepdims=True)
    shares = np.exp(below) / np.exp(below).sum(axis=1, keepdims=True)
    off = U * (shares * -below).sum(axis=1) + gamma(EXP + SCORE_BLOCK // 16 + 4) + logits.shape[1] * np.exp(-87.0)
    return np.asarray(off / (1 - off) + 8 * 2.0**-53 * (2 * np.abs(wide).max(axis=1) + np.log(logits.shape[1])))
