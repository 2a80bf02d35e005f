"""What an op is called with: the buffers, and the protocol that every set of ops implements.

Dimensions: L new tokens in a step, T tokens cached before it, D hidden, H query heads, G key/value heads, E head size,
F feed-forward, V vocabulary; matrices are [N, K] with B = K / 32 blocks of columns. Buffers have room for the largest L; ops
read how many tokens there are from the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import BLOCK, INTEGER_BITS, QuantizedMatrix, Scheme, pack_codes

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]
F16 = npt.NDArray[np.float16]

TILE = 16  # rows of a packed tile
KEY_TILE = 64  # keys that lie side by side in the cache
ATTENTION_KEYS = 128  # keys of a block of attention
ATTENTION_ROWS = 16  # query rows, each a head of a token, that attention handles together
MAX_HEAD_DIM = 256  # of E
LOOKUP_TILES = 4  # that a thread lays out at a time where several vectors meet a matrix in the lookup layout
TABLE_BYTES = {"quads": 256, "pairs": 512, "singles": 1024}  # a block; what an index is: 4 codes of 1 bit, 2 of 2, 1 of 4

Layout = Literal["multiply-add", "lookup"]  # how a packed matrix's codes lie, which says what kernels multiply it
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

GateActivation = Literal["silu", "gelu_pytorch_tanh"]  # what a gate goes through, as Hugging Face calls it
GATE_ACTIVATIONS: tuple[GateActivation, ...] = get_args(GateActivation)


class Step:
    """What changes from step to step, in memory that the C kernels read: T, L, and how many last tokens need logits."""

    def __init__(self) -> None:
        self.array: I32 = np.zeros(3, np.int32)

    def set(self, position: int, n_tokens: int, n_outputs: int) -> None:
        """Describe the next step."""
        self.array[:] = position, n_tokens, n_outputs

    @property
    def position(self) -> int:
        """T: tokens cached before this step."""
        return int(self.array[0])

    @property
    def n_tokens(self) -> int:
        """L: new tokens."""
        return int(self.array[1])

    @property
    def n_outputs(self) -> int:
        """Logits are wanted for the last n_outputs tokens."""
        return int(self.array[2])


@dataclass(frozen=True)
class LookupRoom:
    """What kernels that look sums up need beside an activation's vectors.

    tables: for each kind of TABLE_BYTES that a matrix reads, uint8 [B, its bytes a block]: the first vector's sums, as csrc/lookup/tables.h
    lays them out. tiles: uint8 [threads, bytes], where each thread lays LOOKUP_TILES tiles out for several vectors.
    """

    tables: Mapping[str, U8]
    tiles: U8


@dataclass(frozen=True)
class Activation:
    """Vectors quantized to int8, x = scale * code, in groups of 32 columns or with one scale a token.

    codes int8 [L, K]; scales float32 [L, B], or [L, 1] per token; offsets int32 [L, B]: -8 * the sum of the block's codes;
    scaled_sums float32 [L, B]: scale * that sum. `lookup` is there where a matrix in the lookup layout is multiplied with them; `exact`,
    float32 [L, K], only where a reference run keeps the unquantized vectors instead.
    """

    codes: I8
    scales: F32
    offsets: I32
    scaled_sums: F32
    exact: F32 | None = None
    lookup: LookupRoom | None = None

    @property
    def cols(self) -> int:
        """K."""
        return int(self.codes.shape[1])

    @property
    def group(self) -> int:
        """Columns that share a scale: 32, or all."""
        return int(self.codes.shape[1] // self.scales.shape[1])


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [N, K] in tiles of 16 rows, as csrc/pack.c lays it out. codes uint8, scales float16, both flat."""

    scheme: Scheme
    rows: int
    cols: int
    codes: U8
    scales: F16
    layout: Layout = "multiply-add"

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and minimums."""
        return self.codes.nbytes + self.scales.nbytes

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that multiplying it with one vector reads."""
        if self.layout == "multiply-add":
            return ()
        return {"int4": ("singles",), "int3": ("pairs", "quads")}.get(self.scheme.family, ("pairs",))

    @property
    def tile_bytes(self) -> int:
        """Bytes of the codes of 16 rows."""
        return self.codes.nbytes // -(-self.rows // TILE)

    def unpack(self) -> QuantizedMatrix:
        """The row-major matrix again: the packed layout, stated in NumPy."""
        tiles, groups, planes = -(-self.rows // TILE), self.scheme.groups(self.cols), self.scheme.planes
        shape, order = ((TILE, 4), (4, 5)) if self.layout == "multiply-add" else ((4, TILE), (5, 4))
        lanes = self.codes.reshape(tiles, self.cols // BLOCK, planes, -1, *shape).transpose(0, 1, 2, 3, *order)
        quads = _quads(self.scheme, lanes)  # lanes [tile, block, plane, 64 bytes, lane, byte] -> [tile, block, plane, quad, lane, byte]
        codes = quads.transpose(2, 0, 4, 1, 3, 5).reshape(planes, tiles * TILE, self.cols)[:, : self.rows]
        parts = self.scales.reshape(tiles, groups, -1, TILE).transpose(0, 3, 1, 2).reshape(tiles * TILE, groups, -1)[: self.rows]
        scales, minimums = parts[:, :, :planes], parts[:, :, planes:]
        return QuantizedMatrix(
            self.scheme,
            pack_codes(self.scheme, codes),
            np.ascontiguousarray(scales[: 1 if self.scheme.group == "tensor" else None]).reshape(
                self.scheme.scales_shape(self.rows, self.cols)
            ),
            np.ascontiguousarray(minimums[:, :, 0]) if self.scheme.has_min else None,
        )

    @cached_property
    def unpacked(self) -> QuantizedMatrix:
        """`unpack()`, kept: the reference ops ask for it at every call."""
        return self.unpack()


@dataclass(frozen=True)
class CacheLayer:
    """One layer's keys [G, context / KEY_TILE, E, KEY_TILE] and values [G, context, E], both float16 or both float32."""

    keys: F16 | F32
    values: F16 | F32

    @property
    def context(self) -> int:
        """Positions that fit, a multiple of KEY_TILE."""
        return int(self.values.shape[1])


@dataclass(frozen=True)
class Partials:
    """What attention to each block of keys gave, kept where threads share out the blocks: scratch that the layers use in turn.

    With U units, the key/value heads times the tiles of ATTENTION_ROWS that their query heads make, blocks float32 [U, context /
    ATTENTION_KEYS, ATTENTION_ROWS (E + 2)], and arrived int32 [U], zeros between steps; divisions are rounded up.
    """

    blocks: F32
    arrived: I32

    @staticmethod
    def shapes(heads: int, kv_heads: int, head_dim: int, context: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of blocks and of arrived."""
        units = kv_heads * -(-heads // kv_heads // ATTENTION_ROWS)
        return (units, -(-context // ATTENTION_KEYS), ATTENTION_ROWS * (head_dim + 2)), (units,)


Matrix_contra = TypeVar("Matrix_contra", contravariant=True)
"""What weight matrices are: `PackedMatrix` for the kernels, `dense.DenseMatrix` for calibration."""


class MatrixOps(Protocol[Matrix_contra]):
    """The operations of the forward pass. Results go to the first argument; `step` says how many tokens there are."""

    def embed(self, out: F32, tokens: I32, table: Matrix_contra, step: Step, scale: float = 1.0) -> None:
        """out[l, :] = scale * table[tokens[l], :]; out float32 [L, D], tokens int32 [L]."""

    def rmsnorm(self, x: F32, weight: F32, eps: float, step: Step) -> None:
        """x = weight * x / sqrt(mean(x^2) + eps) of each head, in place; x float32 [L, heads, E], weight float32 [E]."""

    def rmsnorm_add(self, out: F32, x: F32, weight: F32, eps: float, step: Step) -> None:
        """out += weight * x / sqrt(mean(x^2) + eps); out and x float32 [L, D], weight float32 [D], D a multiple of 16."""

    def rmsnorm_quantize(self, out: Activation, x: F32, weight: F32, eps: float, step: Step, outputs_only: bool = False) -> None:
        """out = quantize(weight * x / sqrt(mean(x^2) + eps)), x float32 [L, D]; with outputs_only the last rows only."""

    def quantize(self, out: Activation, x: F32, step: Step) -> None:
        """out = x in int8, per group of 32: scale = max|x| / 127, codes rounded half to even."""

    def matmul(self, out: F32, x: Activation, w: Matrix_contra, step: Step, accumulate: bool = False, outputs_only: bool = False) -> None:
        """out[l, n] (+)= sum_k w[n, k] x[l, k]; out float32 [L, N]."""

    def add_bias(self, x: F32, bias: F32, step: Step) -> None:
        """x[l, n] += bias[n], in place; x float32 [L, N], bias float32 [N]."""

    def rope(self, x: F32, cos: F32, sin: F32, step: Step) -> None:
        """Rotate x float32 [L, heads, E] in place by positions T.. with cos and sin float32 [context, E/2]."""

    def cache_append(self, cache: CacheLayer, k: F32, v: F32, cos: F32, sin: F32, step: Step) -> None:
        """Store rope(k) and v, float32 [L, G, E], at positions T.. of the cache."""

    def attention(
        self, out: F32, q: F32, cache: CacheLayer, scratch: Partials, scale: float, step: Step, window: int | None = None
    ) -> None:
        """out = softmax(scale * q keys^T, causal) values; q and out float32 [L, H, E].

        Position p sees the positions t <= p and, with a window, p - window < t.
        """

    def gate_quantize(self, out: Activation, gate: F32, up: F32, activation: GateActivation, step: Step) -> None:
        """out = quantize(a(gate) * up); gate and up float32 [L, F].

        silu: a(g) = g / (1 + exp(-g)) (SwiGLU: Shazeer, 2020). gelu_pytorch_tanh: a(g) = g / 2 (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3)))
        (Hendrycks and Gimpel, 2016).
        """

    def relu2_gate(self, gate: F32, up: F32, step: Step) -> None:
        """up = max(gate, 0)^2 * up, in place (So et al., 2021); gate and up float32 [L, F]."""


Ops = MatrixOps[PackedMatrix]
"""The operations that the engine runs."""


class CheckingOps(Ops, Protocol):
    """Operations that can also look whether what they wrote is finite (see `ops.checked`)."""

    def check_finite(self, first: I64, x: F32, op: int, step: Step, outputs_only: bool = False) -> None:
        """first[0] = min(first[0], op << 48 | l << 32 | k) for every x[l, k] that is NaN or infinite; x float32 [L, K], op 0..32767.
        With outputs_only x has only the step's last n_outputs tokens; l counts from the step's first all the same.
        """

    def check_cache(self, first: I64, cache: CacheLayer, op: int, step: Step) -> None:
        """The same for the keys and values at positions T.., float [L, K] with K counting [G, 2, E]: each head's key, then its value."""


def packed_bytes(scheme: Scheme, rows: int, cols: int) -> tuple[int, int]:
    """Bytes of (codes, scales) of a packed matrix."""
    lanes = -(-rows // TILE) * TILE
    bits = 2 * scheme.planes if scheme.is_trits else INTEGER_BITS[scheme.family]
    return lanes * cols * bits // 8, 2 * lanes * scheme.groups(cols) * (scheme.planes + scheme.has_min)


def _quads(scheme: Scheme, lanes: U8) -> npt.NDArray[Any]:
    """Bytes [tile, block, plane, 64 bytes, lane, byte] -> codes [tile, block, plane, quad, lane, byte], as csrc/pack.c has them."""
    if scheme.family == "int8":
        return (lanes ^ 0x80).view(np.int8)
    if scheme.family == "int3":
        return _spread(lanes[:, :, :, :2], 2) | _spread(lanes[:, :, :, 2:], 1) << 2
    return _spread(lanes, 2 if scheme.is_trits else INTEGER_BITS[scheme.family])


def _spread(lanes: U8, bits: int) -> U8:
    """The quads that share each 64 bytes, one after the other."""
    quads = np.stack([lanes >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)], axis=4)
    return quads.reshape(*lanes.shape[:3], -1, *lanes.shape[4:])
