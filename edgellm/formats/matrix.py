"""Weight matrices as files hold them: low-bit codes, row-major, with one scale (and maybe one minimum) per group.

Shapes: N rows (output features), K columns (input features), J = K / group groups per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import UnsupportedModelError

U8 = npt.NDArray[np.uint8]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Scheme:
    """How a matrix is quantized; `str(scheme)` is its name everywhere: `int4-g32`, `int4-min-g32`, `int8-g32`.

    int4:      w = scale * (code - 8),      code 0..15    (GGUF Q4_0 with group 32)
    int4-min:  w = scale * code + minimum,  code 0..15    (GGUF Q4_1 with group 32)
    int8:      w = scale * code,            code -128..127 (GGUF Q8_0 with group 32)
    """

    bits: int
    group: int
    has_min: bool = False

    def __str__(self) -> str:
        return f"int{self.bits}{'-min' if self.has_min else ''}-g{self.group}"

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme of that name; UnsupportedModelError lists the known names."""
        for scheme in SCHEMES:
            if str(scheme) == name:
                return scheme
        raise UnsupportedModelError(f"quantization scheme {name!r} is unknown; known: {', '.join(map(str, SCHEMES))}")

    @property
    def bits_per_weight(self) -> float:
        """Storage per weight, scales and minimums included."""
        return self.bits + (32 if self.has_min else 16) / self.group


INT4 = Scheme(bits=4, group=32)
INT4_MIN = Scheme(bits=4, group=32, has_min=True)
INT8 = Scheme(bits=8, group=32)
SCHEMES = (INT4, INT4_MIN, INT8)


@dataclass(frozen=True)
class QuantizedMatrix:
    """One quantized matrix [N, K].

    codes:    int4: uint8 [N, K/2], column 2j in the low nibble of byte j, 2j+1 in the high one; int8: int8 [N, K]
    scales:   float16 [N, J]
    minimums: float16 [N, J] where the scheme has them, else None
    """

    scheme: Scheme
    codes: U8 | I8
    scales: F16
    minimums: F16 | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return int(self.codes.shape[0]), int(self.codes.shape[1]) * (8 // self.scheme.bits)

    @property
    def nbytes(self) -> int:
        """Bytes stored: codes, scales and minimums."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.minimums is None else self.minimums.nbytes)

    def integer_codes(self) -> I8:
        """The codes as int8 [N, K]: 0..15 for int4, -128..127 for int8."""
        if self.scheme.bits == 8:
            return self.codes.view(np.int8)
        return np.stack([self.codes & 15, self.codes >> 4], axis=-1).reshape(self.shape).view(np.int8)

    def dequantize(self) -> F32:
        """The float32 weights [N, K]: one float32 multiplication and, with minimums, one addition, each rounded."""
        rows, cols = self.shape
        codes = self.integer_codes().reshape(rows, -1, self.scheme.group).astype(np.float32)
        if self.scheme.bits == 4 and not self.scheme.has_min:
            codes -= 8
        weights = codes * self.scales.astype(np.float32)[:, :, None]
        if self.minimums is not None:
            weights += self.minimums.astype(np.float32)[:, :, None]
        return weights.reshape(rows, cols)

    def take_rows(self, rows: npt.NDArray[np.integer] | slice) -> QuantizedMatrix:
        """The same weights for a selection (or a permutation) of rows."""
        minimums = None if self.minimums is None else self.minimums[rows]
        return QuantizedMatrix(self.scheme, self.codes[rows], self.scales[rows], minimums)


def pack_nibbles(codes: npt.NDArray[np.integer]) -> U8:
    """Codes 0..15 [N, K] -> uint8 [N, K/2], in the order that `QuantizedMatrix.codes` documents."""
    unsigned: U8 = codes.astype(np.uint8, copy=False)
    return np.bitwise_or(unsigned[:, 0::2], np.left_shift(unsigned[:, 1::2], 4), dtype=np.uint8)
