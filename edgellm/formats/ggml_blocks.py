"""ggml's quantized blocks -> our codes and scales, for the types whose weights a scheme of ours holds exactly.

A block is 32 or 256 neighbouring weights of a row: a float16 scale, a minimum where the type has one, and the codes. The layouts are those
of https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h, and what they mean that of dequantize_row_* in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import ModelFileError
from edgellm.formats.matrix import INT4, INT4_MIN, INT8, U8, QuantizedMatrix, Scheme, pack_codes

TERNARY_G256 = Scheme("ternary", 256)
ROWS_AT_ONCE = 1024
"""Rows whose blocks are taken apart together, which takes some times their size."""

IQ4_NL_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""What the sixteen codes of IQ4_NL stand for."""


@dataclass(frozen=True)
class BlockType:
    """A type whose weights are kept.

    scheme:       what holds them
    codes:        blocks [N, J, bytes] -> integer codes [N, K], as `QuantizedMatrix.integer_codes` gives them
    scale_at:     where in a block the float16 scale is; the minimum follows it
    """

    scheme: Scheme
    codes: Callable[[U8], npt.NDArray[np.integer]]
    scale_at: int = 0

    @property
    def weights(self) -> int:
        """Of a block: those that share a scale."""
        assert isinstance(self.scheme.group, int)
        return self.scheme.group


def lossless(raw: U8, cols: int, type_name: str) -> QuantizedMatrix:
    """The matrix [N, cols] with exactly the weights of the blocks, uint8 [N, bytes of a row]; type_name is one of LOSSLESS.

    ModelFileError: a code that stands for no weight.
    """
    kind, rows = LOSSLESS[type_name], len(raw)
    blocks = raw.reshape(rows, cols // kind.weights, -1)
    codes: npt.NDArray[Any] = np.empty((rows, kind.scheme.code_bytes(cols)), np.int8 if kind.scheme == INT8 else np.uint8)
    for start in range(0, rows, ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        codes[some] = pack_codes(kind.scheme, kind.codes(blocks[some])[None])
    minimums = _float16(blocks, kind.scale_at + 2) if kind.scheme.has_min else None
    return QuantizedMatrix(kind.scheme, codes, _float16(blocks, kind.scale_at), minimums)


def _float16(blocks: U8, start: int) -> npt.NDArray[np.float16]:
    return blocks[:, :, start : start + 2].copy().view("<f2")[:, :, 0]


def _nibbles(codes: U8) -> U8:
    """Bytes [N, J, 16] -> [N, J, 32]: the low nibbles are the first sixteen weights of a block, the high ones the others."""
    return np.concatenate([codes & 15, codes >> 4], axis=-1)


def _rows(codes: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """[N, J, weights of a block] -> [N, K]."""
    return codes.reshape(codes.shape[0], -1)


def _q5_0(blocks: U8) -> npt.NDArray[np.integer]:
    """Five bits, 16 standing for 0: the fifth bits of a block's weights in a little-endian word, the others as nibbles."""
    high = np.unpackbits(blocks[:, :, 2:6], axis=-1, bitorder="little")
    return _rows((_nibbles(blocks[:, :, 6:]) | high << 4).view(np.int8) - np.int8(16))


def _tq1_0(blocks: U8) -> npt.NDArray[np.integer]:
    """Trits as digits of a fraction in base 3: 32 bytes of five, 16 bytes of five, 4 bytes of four; neighbours in neighbouring bytes."""
    digits = []
    for start, stop, trits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        shifted = blocks[:, :, None, start:stop] * (3 ** np.arange(trits, dtype=np.uint8))[:, None]
        digits.append((shifted.astype(np.uint16) * 3 >> 8).reshape(*blocks.shape[:2], -1))
    return _rows(np.concatenate(digits, axis=-1))


def _tq2_0(blocks: U8) -> npt.NDArray[np.integer]:
    """Two bits: byte i of each 32 holds the trits of weights i, i + 32, i + 64 and i + 96."""
    packed = blocks[:, :, :64].reshape(*blocks.shape[:2], 2, 1, 32)
    trits = packed >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    if (trits == 3).any():
        raise ModelFileError("a block of TQ2_0 has the code 3, which stands for no trit; the file is corrupt")
    return _rows(trits)


LOSSLESS = {
    "Q4_0": BlockType(INT4, lambda blocks: _rows(_nibbles(blocks[:, :, 2:]))),
    "Q4_1": BlockType(INT4_MIN, lambda blocks: _rows(_nibbles(blocks[:, :, 4:]))),
    "Q5_0": BlockType(INT8, _q5_0),
    "Q8_0": BlockType(INT8, lambda blocks: _rows(blocks[:, :, 2:].view(np.int8))),
    "IQ4_NL": BlockType(INT8, lambda blocks: IQ4_NL_LEVELS[_rows(_nibbles(blocks[:, :, 2:]))]),
    "TQ1_0": BlockType(TERNARY_G256, _tq1_0, scale_at=52),
    "TQ2_0": BlockType(TERNARY_G256, _tq2_0, scale_at=64),
}
