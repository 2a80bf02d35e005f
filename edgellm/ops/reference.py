"""The ops in NumPy: the numeric oracle. One method per kernel, same name and arguments as in `interface.Ops`.

Everything is computed in float64 from the same inputs and rounded once at the end, so that a kernel's distance from it
is the kernel's own rounding. With `Reference(quantize_activations=False)` activations stay unquantized: the model's
mathematics without the int8 step, for comparing with other implementations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import BLOCK, Scheme
from edgellm.ops.interface import F32, I8, I32, I64, KEY_TILE, U8, Activation, CacheLayer, GateActivation, PackedMatrix, Partials, Step

F64 = npt.NDArray[np.float64]


def quantize_rows(out: Activation, x: F64) -> None:
    """Rows [L, K] into the first L rows of out: float32 arithmetic as the kernels do it, so that codes agree exactly
    unless x itself differs."""
    length, cols = x.shape
    if out.exact is not None:
        out.exact[:length] = x
    groups = x.astype(np.float32).reshape(length, out.scales.shape[1], out.group)
    largest = np.abs(groups).max(axis=2)
    inverse = np.zeros_like(largest)
    np.divide(np.float32(127), largest, out=inverse, where=largest > np.float32(1e-30))
    codes = np.clip(np.rint(groups * inverse[:, :, None]), -127, 127)
    sums = codes.reshape(length, cols // BLOCK, BLOCK).sum(axis=2).astype(np.int32)
    out.codes[:length] = codes.reshape(length, cols)
    out.scales[:length] = largest / np.float32(127)
    out.offsets[:length] = -8 * sums
    out.scaled_sums[:length] = out.scales[:length] * sums.astype(np.float32)
    for kind, table in (out.lookup.tables if out.lookup and length else {}).items():
        table[:] = lookup_tables(kind, out.codes[0])


def lookup_tables(kind: str, codes: I8) -> U8:
    """The tables of one vector's codes, int8 [K], as csrc/lookup/tables.h defines them: uint8 [B, TABLE_BYTES[kind]]."""
    bits = {"quads": 1, "pairs": 2, "singles": 4}[kind]
    columns = codes.reshape(-1, bits, 2, 4 // bits, 4).astype(np.int32)  # [block, 64 bytes, half of the byte, code, column % 4]
    code = np.arange(16) >> bits * np.arange(4 // bits)[:, None] & (1 << bits) - 1  # [code, index]
    sums = np.einsum("buhkc,ki->buhci", columns, code - (0 if bits == 1 else 1 << bits - 1))
    shift, up = (6, 32) if bits == 4 else (5, 3)
    low, high = (sums + up & (1 << shift) - 1) - (1 << shift - 1), sums + up >> shift
    return np.stack([low, high], axis=3).astype(np.int8).view(np.uint8).reshape(len(columns), -1)


def rounded_tables(scheme: Scheme, codes: I8) -> tuple[I8, F32]:
    """The tables of the ablation lut8 (csrc/lookup/lut8.h) of one vector's codes, int8 [K], for matrices of a scheme of 2 or 4 bits.

    int8 [B, sum, index], the sums in the order of the halves of a tile's bytes, and float32 [B], what a step of a block's is worth.
    """
    bits = 4 if scheme.family == "int4" else 2
    columns = codes.reshape(-1, bits, 2, 4 // bits, 4).astype(np.int32)
    code = np.arange(16) >> bits * np.arange(4 // bits)[:, None] & (1 << bits) - 1
    level = np.where(scheme.is_trits & (code == 3), 0, code - scheme.zero)  # no trit is 3
    sums = np.einsum("buhkc,ki->buhci", columns, level).reshape(len(columns), 8 * bits, 16).astype(np.float32)
    largest = np.abs(sums).max(axis=(1, 2))
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(sums * inverse[:, None, None]).astype(np.int8), largest / np.float32(127)


def rotated(x_LHE: F32, cos: F32, sin: F32, position: int) -> F64:
    """x rotated by its positions, element i paired with i + E/2."""
    length, half = x_LHE.shape[0], x_LHE.shape[2] // 2
    c = cos[position : position + length, None, :].astype(np.float64)
    s = sin[position : position + length, None, :].astype(np.float64)
    low, high = x_LHE[..., :half].astype(np.float64), x_LHE[..., half:].astype(np.float64)
    return np.concatenate([low * c - high * s, high * c + low * s], axis=2)


def normed(x: F32, weight: F32, eps: float) -> F64:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis."""
    wide = x.astype(np.float64)
    normed_rows: F64 = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps) * weight
    return normed_rows


def activated(gate: F32, activation: GateActivation) -> F64:
    """What the gate becomes."""
    wide = gate.astype(np.float64)
    if activation == "silu":
        return np.asarray(wide / (1 + np.exp(-wide)))
    return np.asarray(wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))))


class Reference:
    """`interface.Ops` in NumPy."""

    def __init__(self, quantize_activations: bool = True) -> None:
        self.quantize_activations = quantize_activations

    def embed(self, out: F32, tokens: I32, table: PackedMatrix, step: Step, scale: float = 1.0) -> None:
        """out[l, :] = scale * table[tokens[l], :]."""
        out[: step.n_tokens] = np.float32(scale) * table.unpacked.take_rows(tokens[: step.n_tokens]).dequantize()

    def rmsnorm(self, x: F32, weight: F32, eps: float, step: Step) -> None:
        """x = weight * x / sqrt(mean(x^2) + eps) of each head, in place."""
        x[: step.n_tokens] = normed(x[: step.n_tokens], weight, eps)

    def rmsnorm_add(self, out: F32, x: F32, weight: F32, eps: float, step: Step) -> None:
        """out += weight * x / sqrt(mean(x^2) + eps)."""
        out[: step.n_tokens] += normed(x[: step.n_tokens], weight, eps)

    def rmsnorm_quantize(self, out: Activation, x: F32, weight: F32, eps: float, step: Step, outputs_only: bool = False) -> None:
        """out = quantize(weight * x / sqrt(mean(x^2) + eps))."""
        rows = x[step.n_tokens - step.n_outputs : step.n_tokens] if outputs_only else x[: step.n_tokens]
        quantize_rows(out, normed(rows, weight, eps))

    def quantize(self, out: Activation, x: F32, step: Step) -> None:
        """out = x in int8, in out's groups: 32 columns or all."""
        quantize_rows(out, x[: step.n_tokens].astype(np.float64))

    def matmul(self, out: F32, x: Activation, w: PackedMatrix, step: Step, accumulate: bool = False, outputs_only: bool = False) -> None:
        """out[l, n] (+)= sum_k w[n, k] x[l, k].

        In integers, of a group of weights g and the blocks b of 32 columns in it: scale[n, g] * sum_b x_scale[l, b] * isum[n, l, b], where
        isum is sum_k code[n, k] * x_code[l, k]; where a token's activations share a scale, scale[n, g] * x_scale[l] * sum_b isum[n, l, b].
        """
        length = step.n_outputs if outputs_only else step.n_tokens
        if x.exact is not None and not self.quantize_activations:
            vectors = x.exact[:length].astype(np.float64)
        else:
            groups = x.codes[:length].astype(np.float64).reshape(length, x.scales.shape[1], x.group) * x.scales[:length, :, None]
            vectors = groups.reshape(length, w.cols)
        product = vectors @ w.unpacked.dequantize(np.float64).T
        out[:length] = out[:length] + product if accumulate else product

    def add_bias(self, x: F32, bias: F32, step: Step) -> None:
        """x[l, n] += bias[n], in place."""
        x[: step.n_tokens] += bias

    def rope(self, x: F32, cos: F32, sin: F32, step: Step) -> None:
        """Rotate x [L, heads, E] in place."""
        x[: step.n_tokens] = rotated(x[: step.n_tokens], cos, sin, step.position)

    def cache_append(self, cache: CacheLayer, k: F32, v: F32, cos: F32, sin: F32, step: Step) -> None:
        """Store rope(k) and v at positions T.. ."""
        positions = np.arange(step.position, step.position + step.n_tokens)
        keys_LGE = rotated(k[: step.n_tokens], cos, sin, step.position).astype(np.float32)
        cache.keys[:, positions // KEY_TILE, :, positions % KEY_TILE] = keys_LGE
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
        length, heads, dim = step.n_tokens, q.shape[1], q.shape[2]
        total, kv_heads = step.position + length, cache.values.shape[0]
        keys_GTE = cache.keys.transpose(0, 1, 3, 2).reshape(kv_heads, -1, dim)[:, :total].astype(np.float64)
        values_GTE = cache.values[:, :total].astype(np.float64)
        q_GRLE = q[:length].astype(np.float64).transpose(1, 0, 2).reshape(kv_heads, heads // kv_heads, length, dim)
        scores = scale * np.einsum("grle,gte->grlt", q_GRLE, keys_GTE)
        age = step.position + np.arange(length)[:, None] - np.arange(total)
        scores = np.where((age >= 0) & (age < (window or total)), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=3, keepdims=True))
        mixed = np.einsum("grlt,gte->grle", weights / weights.sum(axis=3, keepdims=True), values_GTE)
        out[:length] = mixed.reshape(heads, length, dim).transpose(1, 0, 2)

    def gate_quantize(self, out: Activation, gate: F32, up: F32, activation: GateActivation, step: Step) -> None:
        """out = quantize(activation(gate) * up)."""
        quantize_rows(out, activated(gate[: step.n_tokens], activation) * up[: step.n_tokens])

    def relu2_gate(self, gate: F32, up: F32, step: Step) -> None:
        """up = max(gate, 0)^2 * up, in place."""
        up[: step.n_tokens] = np.maximum(gate[: step.n_tokens].astype(np.float64), 0) ** 2 * up[: step.n_tokens]

    def check_finite(self, first: I64, x: F32, op: int, step: Step, outputs_only: bool = False) -> None:
        """first[0] = min(first[0], op << 48 | l << 32 | k) for every x[l, k] that is NaN or infinite."""
        length = step.n_outputs if outputs_only else step.n_tokens
        for row, k in np.argwhere(~np.isfinite(x[:length]))[:1].tolist():  # the first of them, in C order
            first[0] = min(first[0], op << 48 | step.n_tokens - length + row << 32 | k)

    def check_cache(self, first: I64, cache: CacheLayer, op: int, step: Step) -> None:
        """The same for the keys and values at positions T.. ."""
        positions = np.arange(step.position, step.position + step.n_tokens)
        keys_LGE = cache.keys[:, positions // KEY_TILE, :, positions % KEY_TILE]
        values_LGE = cache.values[:, positions].transpose(1, 0, 2)
        both = np.stack([keys_LGE, values_LGE], axis=2).astype(np.float32)
        self.check_finite(first, both.reshape(step.n_tokens, -1), op, step)
