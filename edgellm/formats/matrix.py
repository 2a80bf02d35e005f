"""Weight matrices as files hold them: low-bit codes, row-major, with one scale (and maybe one minimum) per group.

Shapes: N rows (output features), K columns (input features), J groups of columns a row, P trit-planes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgellm.errors import UnsupportedModelError

U8 = npt.NDArray[np.uint8]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

INTEGER_BITS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2}
TRIT_PLANES = {"ternary": 1, "tritplanes2": 2, "tritplanes3": 3}
GROUPS = (32, 64, 96, 128, 192, 256)
TRITS_A_BYTE = 5  # 3^5 = 243
BLOCK = 32  # what the columns of a packed matrix are a multiple of
GRAMMAR = (
    f"FAMILY[-min]-GROUPING with FAMILY one of {', '.join([*INTEGER_BITS, *TRIT_PLANES])}, -min for int4, int3 and int2 only, "
    f"GROUPING one of {', '.join(f'g{group}' for group in GROUPS)}, row, tensor; for example int4-min-g32 or ternary-row"
)


@dataclass(frozen=True)
class Scheme:
    """How a matrix is quantized; `str(scheme)` is its name everywhere: `int4-g32`, `int4-min-g32`, `ternary-row`.

    int8:         w = scale * code,                 code -128..127          (GGUF Q8_0 with group 32)
    intB:         w = scale * (code - 2^(B-1)),     code 0..2^B - 1         (GGUF Q4_0 with group 32)
    intB-min:     w = scale * code + minimum,       code 0..2^B - 1         (GGUF Q4_1 with group 32)
    ternary:      w = scale * trit,                 trit -1, 0, 1           (BitNet b1.58: Ma et al., 2024)
    tritplanesP:  w = sum_p scale_p * trit_p,       P trits a weight

    group: columns that share a scale, the last group of a row being shorter where it must; "row", or "tensor": one scale for all.
    """

    family: str
    group: int | Literal["row", "tensor"]
    has_min: bool = False

    def __str__(self) -> str:
        return f"{self.family}{'-min' if self.has_min else ''}-{'g' if isinstance(self.group, int) else ''}{self.group}"

    @classmethod
    def parse(cls, name: str) -> Scheme:
        """The scheme of that name; UnsupportedModelError says what names there are."""
        match = re.fullmatch(r"(\w+?)(-min)?-(?:g(\d{1,4})|(row|tensor))", name, re.ASCII)
        if match:
            family, minimum, columns, whole = match.groups()
            group: Any = int(columns) if columns else whole
            known = family in TRIT_PLANES if not minimum else False
            known |= family in INTEGER_BITS and not (minimum and family == "int8")
            scheme = cls(family, group, has_min=bool(minimum))
            if known and (whole or group in GROUPS) and str(scheme) == name:
                return scheme
        raise UnsupportedModelError(f"quantization scheme {name!r} is unknown; a scheme is {GRAMMAR}")

    @property
    def planes(self) -> int:
        """Codes a weight: P for trit-planes, 1 for integers."""
        return TRIT_PLANES.get(self.family, 1)

    @property
    def is_trits(self) -> bool:
        """Ternary or trit-planes."""
        return self.family in TRIT_PLANES

    @property
    def zero(self) -> int:
        """The stored code that stands for 0 in a scheme without minimums."""
        if self.is_trits:
            return 1
        return 0 if self.has_min or self.family == "int8" else 1 << INTEGER_BITS[self.family] - 1

    def groups(self, cols: int) -> int:
        """J: scales in a row."""
        return -(-cols // self.group) if isinstance(self.group, int) else 1

    def code_bytes(self, cols: int) -> int:
        """Bytes that a row's codes take."""
        if self.is_trits:
            return self.planes * -(-cols // TRITS_A_BYTE)
        return cols * INTEGER_BITS[self.family] // 8

    def cols(self, code_bytes: int) -> int:
        """K of a row with that many bytes of codes. Trits: K is the one multiple of 32 that needs them."""
        if self.is_trits:
            return code_bytes // self.planes * TRITS_A_BYTE // BLOCK * BLOCK
        return code_bytes * 8 // INTEGER_BITS[self.family]

    def scales_shape(self, rows: int, cols: int) -> tuple[int, ...]:
        """[N, J], or [N, J, P] with several planes; [1, 1] and [1, 1, P] where the tensor has one scale."""
        shape = (1, 1) if self.group == "tensor" else (rows, self.groups(cols))
        return shape if self.planes == 1 else (*shape, self.planes)

    def nbytes(self, rows: int, cols: int) -> int:
        """Bytes stored: codes, scales and minimums."""
        return rows * self.code_bytes(cols) + 2 * (1 + self.has_min) * int(np.prod(self.scales_shape(rows, cols)))


INT4 = Scheme("int4", 32)
INT4_MIN = Scheme("int4", 32, has_min=True)
INT8 = Scheme("int8", 32)


@dataclass(frozen=True)
class QuantizedMatrix:
    """One quantized matrix [N, K].

    codes:    row after row, as `pack_codes` lays them out; int8 [N, K] for int8, else uint8 [N, scheme.code_bytes(K)]
    scales:   float16, of scheme.scales_shape(N, K)
    minimums: float16 [N, J] where the scheme has them, else None
    """

    scheme: Scheme
    codes: U8 | I8
    scales: F16
    minimums: F16 | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return int(self.codes.shape[0]), self.scheme.cols(int(self.codes.shape[1]))

    @property
    def nbytes(self) -> int:
        """Bytes stored: codes, scales and minimums."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.minimums is None else self.minimums.nbytes)

    def integer_codes(self) -> I8:
        """The codes as int8 [P, N, K]: -128..127 for int8, 0..2^B - 1 for intB, 0..2 (trit + 1) for trits."""
        return unpack_codes(self.scheme, self.codes)

    def dequantize(self, dtype: type[np.floating[Any]] = np.float32) -> npt.NDArray[Any]:
        """The weights [N, K]: a multiplication for each plane and an addition for each further plane or minimum, each rounded to dtype."""
        cols = self.shape[1]
        levels = self.integer_codes().astype(dtype) - dtype(self.scheme.zero)
        scales = self.scales if self.scales.ndim == 3 else self.scales[:, :, None]
        weights: npt.NDArray[Any] = levels[0] * self._per_column(scales[:, :, 0].astype(dtype), cols)
        for plane in range(1, self.scheme.planes):
            weights += levels[plane] * self._per_column(scales[:, :, plane].astype(dtype), cols)
        if self.minimums is not None:
            weights += self._per_column(self.minimums.astype(dtype), cols)
        return weights

    def _per_column(self, values: npt.NDArray[Any], cols: int) -> npt.NDArray[Any]:
        """[N, J] -> [N, K]."""
        group = self.scheme.group if isinstance(self.scheme.group, int) else cols
        columns: npt.NDArray[Any] = np.repeat(values, group, axis=1)[:, :cols]
        return columns

    def take_rows(self, rows: npt.NDArray[np.integer] | slice) -> QuantizedMatrix:
        """The same weights for a selection (or a permutation) of rows."""
        scales = self.scales if self.scheme.group == "tensor" else self.scales[rows]
        minimums = self.minimums if self.minimums is None or self.scheme.group == "tensor" else self.minimums[rows]
        return QuantizedMatrix(self.scheme, self.codes[rows], scales, minimums)


def pack_codes(scheme: Scheme, codes: npt.NDArray[np.integer]) -> U8 | I8:
    """Codes [P, N, K], as `QuantizedMatrix.integer_codes` gives them, in file order: [N, scheme.code_bytes(K)].

    int4: column 2j in the low nibble of byte j, 2j+1 in the high one. int2: column 4j+i at bit 2i of byte j. int3: the low two bits as
    int2, then the high bits, column 8j+i at bit i of byte j. Trits: plane after plane, column 5j+i the digit of 3^i of byte j.
    """
    planes, rows, cols = codes.shape
    if scheme.family == "int8":
        signed: I8 = codes[0].astype(np.int8, copy=False)
        return signed
    unsigned: U8 = codes.astype(np.uint8, copy=False)
    if scheme.is_trits:
        padded = np.zeros((planes, rows, -(-cols // TRITS_A_BYTE) * TRITS_A_BYTE), np.uint8)
        padded[:, :, :cols] = unsigned
        digits = padded.reshape(planes, rows, -1, TRITS_A_BYTE)
        joined: U8 = digits @ (3 ** np.arange(TRITS_A_BYTE, dtype=np.uint8))
        by_row: U8 = joined.transpose(1, 0, 2).reshape(rows, -1)
        return by_row
    if scheme.family == "int3":
        return np.concatenate([_join(unsigned[0] & 3, 2), _join(unsigned[0] >> 2, 1)], axis=1)
    return _join(unsigned[0], INTEGER_BITS[scheme.family])


def unpack_codes(scheme: Scheme, codes: U8 | I8) -> I8:
    """The inverse of `pack_codes`: int8 [P, N, K]."""
    if scheme.family == "int8":
        return codes.view(np.int8)[None]
    rows, cols = codes.shape[0], scheme.cols(codes.shape[1])
    if scheme.is_trits:
        digits = codes.reshape(rows, scheme.planes, -1, 1) // (3 ** np.arange(TRITS_A_BYTE, dtype=np.uint8)) % np.uint8(3)
        return digits.reshape(rows, scheme.planes, -1)[:, :, :cols].transpose(1, 0, 2).view(np.int8)
    if scheme.family == "int3":
        return (_split(codes[:, : cols // 4], 2) | _split(codes[:, cols // 4 :], 1) << 2).view(np.int8)[None]
    return _split(codes, INTEGER_BITS[scheme.family]).view(np.int8)[None]


def _join(codes: U8, bits: int) -> U8:
    """[N, K] of a few bits -> [N, K bits / 8], the first column in the lowest bits."""
    joined = codes[:, :: 8 // bits].copy()
    for i in range(1, 8 // bits):
        joined |= codes[:, i :: 8 // bits] << np.uint8(bits * i)
    return joined


def _split(joined: npt.NDArray[Any], bits: int) -> U8:
    """The inverse of `_join`."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    split: U8 = joined.view(np.uint8)[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
    return split.reshape(joined.shape[0], -1)
