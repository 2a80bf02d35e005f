"""The ops in float32 BLAS over dense matrices: for calibration, and for evaluation with other activations than the kernels'.

Much quicker than `reference` and less exact: sums are float32, in whatever order BLAS takes them. Activations stay as they are, or become
what the kernels' int8 stands for; either way they lie in `Activation.exact`, and codes and scales are left alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from edgellm.errors import InvalidRequestError
from edgellm.ops.interface import F32, I32, KEY_TILE, Activation, CacheLayer, GateActivation, Partials, Step

Rounding = Literal["float32", "int8-g32", "int8-token"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)
GROUP = 32
QUERIES = 256
"""Tokens whose attention is computed together: the scores of a head of them stay in the cache, and few masked ones are computed."""


@dataclass(frozen=True)
class DenseMatrix:
    """weights: float32 [N, K]."""

    weights: F32


def rounded(x: F32, rounding: Rounding) -> F32:
    """x float32 [L, K] as int8 stands for it, per 32 columns or per row: with the kernels' arithmetic, so the codes are theirs."""
    if rounding == "float32":
        return x
    group = GROUP if rounding == "int8-g32" else x.shape[1]
    groups = x.reshape(len(x), x.shape[1] // group, group)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > np.float32(1e-30))
    codes = np.rint(groups * inverse)
    codes *= largest / np.float32(127)
    values: F32 = codes.reshape(x.shape)
    return values


class Dense:
    """`interface.MatrixOps` over `DenseMatrix`. Activations need room for exact vectors (`Activation.exact`)."""

    def __init__(self, activations: Rounding = "float32") -> None:
        if activations not in ROUNDINGS:
            raise InvalidRequestError(f"activations {activations!r} are unknown; possible: {', '.join(ROUNDINGS)}")
        self.activations = activations

    def embed(self, out: F32, tokens: I32, table: DenseMatrix, step: Step, scale: float = 1.0) -> None:
        """out[l, :] = scale * table[tokens[l], :]."""
        np.multiply(table.weights[tokens[: step.n_tokens]], np.float32(scale), out=out[: step.n_tokens])

    def rmsnorm(self, x: F32, weight: F32, eps: float, step: Step) -> None:
        """x = weight * x / sqrt(mean(x^2) + eps) of each head, in place."""
        x[: step.n_tokens] = _normed(x[: step.n_tokens], weight, eps)

    def rmsnorm_add(self, out: F32, x: F32, weight: F32, eps: float, step: Step) -> None:
        """out += weight * x / sqrt(mean(x^2) + eps)."""
        out[: step.n_tokens] += _normed(x[: step.n_tokens], weight, eps)

    def rmsnorm_quantize(self, out: Activation, x: F32, weight: F32, eps: float, step: Step, outputs_only: bool = False) -> None:
        """out = quantize(weight * x / sqrt(mean(x^2) + eps))."""
        first = step.n_tokens - step.n_outputs if outputs_only else 0
        self._store(out, _normed(x[first : step.n_tokens], weight, eps))

    def quantize(self, out: Activation, x: F32, step: Step) -> None:
        """out = x, rounded."""
        self._store(out, x[: step.n_tokens])

    def matmul(self, out: F32, x: Activation, w: DenseMatrix, step: Step, accumulate: bool = False, outputs_only: bool = False) -> None:
        """out[l, n] (+)= sum_k w[n, k] x[l, k]."""
        length = step.n_outputs if outputs_only else step.n_tokens
        vectors = _exact(x)[:length]
        if accumulate:
            out[:length] += vectors @ w.weights.T
        else:
            np.matmul(vectors, w.weights.T, out=out[:length])

    def add_bias(self, x: F32, bias: F32, step: Step) -> None:
        """x[l, n] += bias[n], in place."""
        x[: step.n_tokens] += bias

    def rope(self, x: F32, cos: F32, sin: F32, step: Step) -> None:
        """Rotate x [L, heads, E] in place."""
        x[: step.n_tokens] = _turned(x[: step.n_tokens], cos, sin, step.position)

    def cache_append(self, cache: CacheLayer, k: F32, v: F32, cos: F32, sin: F32, step: Step) -> None:
        """Store rope(k) and v at positions T.. ."""
        positions = np.arange(step.position, step.position + step.n_tokens)
        cache.keys[:, positions // KEY_TILE, :, positions % KEY_TILE] = _turned(k[: step.n_tokens], cos, sin, step.position)
        cache.values[:, positions] = v[: step.n_tokens].transpose(1, 0, 2)

    def attention(
        self,
        out: F32,
        q: F32,
        cache: CacheLayer,
        scratch: Partials,  # noqa: ARG002
        scale: float,
        step: Step,
        window: int | None = None,
    ) -> None:
        """out = softmax(scale * q keys^T, causal and within the window) values."""
        total, (kv_heads, _, dim, _) = step.position + step.n_tokens, cache.keys.shape
        shared = q.shape[1] // kv_heads
        for head in range(kv_heads):
            keys_ET = cache.keys[head].transpose(1, 0, 2).reshape(dim, -1)[:, :total].astype(np.float32, copy=False)
            values_TE = cache.values[head, :total].astype(np.float32, copy=False)
            for start in range(0, step.n_tokens, QUERIES):
                rows = slice(start, min(start + QUERIES, step.n_tokens))
                seen = slice(max(0, step.position + start + 1 - (window or total)), step.position + rows.stop)
                age = step.position + np.arange(rows.start, rows.stop)[:, None] - np.arange(seen.start, seen.stop)
                hidden = (age < 0) | (age >= (window or total))
                for query in range(head * shared, (head + 1) * shared):
                    scores = (q[rows, query] * np.float32(scale)) @ keys_ET[:, seen]
                    scores[hidden] = -np.inf
                    scores -= scores.max(axis=1, keepdims=True)
                    np.exp(scores, out=scores)
                    out[rows, query] = scores @ values_TE[seen] / scores.sum(axis=1, keepdims=True)

    def gate_quantize(self, out: Activation, gate: F32, up: F32, activation: GateActivation, step: Step) -> None:
        """out = quantize(activation(gate) * up)."""
        self._store(out, _activated(gate[: step.n_tokens], activation) * up[: step.n_tokens])

    def relu2_gate(self, gate: F32, up: F32, step: Step) -> None:
        """up = max(gate, 0)^2 * up, in place."""
        up[: step.n_tokens] *= np.square(np.maximum(gate[: step.n_tokens], 0))

    def _store(self, out: Activation, x: F32) -> None:
        _exact(out)[: len(x)] = rounded(x, self.activations)


def _exact(activation: Activation) -> F32:
    if activation.exact is None:
        raise InvalidRequestError("dense ops keep activations as floats; make the buffers with exact=True")
    return activation.exact


def _normed(x: F32, weight: F32, eps: float) -> F32:
    normed: F32 = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight
    return normed


def _activated(gate: F32, activation: GateActivation) -> F32:
    """a(gate); by tanh, which does not overflow: 1 / (1 + exp(-g)) = (1 + tanh(g / 2)) / 2."""
    half = gate / np.float32(2)
    angle = half if activation == "silu" else np.float32(math.sqrt(2 / math.pi)) * (gate + np.float32(0.044715) * gate**3)
    activated: F32 = half * (1 + np.tanh(angle))
    return activated


def _turned(x_LHE: F32, cos: F32, sin: F32, position: int) -> F32:
    """x rotated by its positions, element i paired with i + E/2."""
    c, s = (table[position : position + len(x_LHE), None] for table in (cos, sin))
    low, high = np.split(x_LHE, 2, axis=2)
    return np.concatenate([low * c - high * s, high * c + low * s], axis=2)
