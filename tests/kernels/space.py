"""Memory for one kernel call: inputs that must not change, outputs between canary bytes, all at a chosen alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import BLOCK, QuantizedMatrix
from edgellm.ops import native
from edgellm.ops.interface import LOOKUP_TILES, TABLE_BYTES, Activation, CacheLayer, Layout, LookupRoom, PackedMatrix, packed_bytes
from edgellm.ops.reference import lookup_tables

Array = npt.NDArray[Any]

CANARY = 0xA5
BOUNDARY = 64  # bytes, as `runtime.workspace.Arena` aligns
MOST_THREADS = 5  # that tests multiply matrices with
SPARE_ROWS = 1  # room for more tokens than there are: a kernel leaves it alone


def allocate(nbytes: int) -> npt.NDArray[np.uint8]:
    """uint8 [nbytes]; conftest.py puts memory that an emulated kernel sees in its place."""
    return np.empty(nbytes, np.uint8)


@dataclass(frozen=True)
class _Block:
    """Bytes begin..end of raw belong to an array; what lies around them is canaries."""

    raw: npt.NDArray[np.uint8]
    begin: int
    end: int

    def around(self) -> npt.NDArray[np.uint8]:
        return np.concatenate([self.raw[: self.begin], self.raw[self.end :]])


class Space:
    """Arrays that begin `shift` elements past a 64-byte boundary. `check` says whether a kernel kept to its outputs."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift
        self._blocks: list[_Block] = []
        self._inputs: list[tuple[Array, bytes]] = []
        self._spare: list[Array] = []

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """An array full of canary bytes, with canaries before and after it."""
        itemsize = np.dtype(dtype).itemsize
        nbytes = int(np.prod(shape, dtype=np.int64)) * itemsize
        raw = allocate(nbytes + 3 * BOUNDARY + self.shift * itemsize)
        raw[:] = CANARY
        begin = BOUNDARY + -(raw.ctypes.data + BOUNDARY) % BOUNDARY + self.shift * itemsize
        self._blocks.append(_Block(raw, begin, begin + nbytes))
        return raw[begin : begin + nbytes].view(dtype).reshape(shape)

    def output(self, rows: int, *tail: int, dtype: npt.DTypeLike = np.float32, holding: Array | None = None) -> Array:
        """[rows + spare, *tail], its first rows holding what an op accumulates to or changes in place."""
        array = self.empty((rows + SPARE_ROWS, *tail), dtype)
        if holding is not None:
            array[:rows] = holding
        self._spare.append(array[rows:])
        return array

    def input(self, array: Array) -> Array:
        """A copy, which a kernel must not change."""
        copy = self.empty(array.shape, array.dtype)
        copy[...] = array
        self._inputs.append((copy, copy.tobytes()))
        return copy

    def matrix(self, matrix: QuantizedMatrix, layout: Layout = "multiply-add") -> PackedMatrix:
        """The packed matrix, as an input."""
        codes, scales = packed_bytes(matrix.scheme, *matrix.shape)
        packed = native.pack(matrix, self.empty((codes,), np.uint8), self.empty((scales // 2,), np.float16), layout)
        self._inputs += [(part, part.tobytes()) for part in (packed.codes, packed.scales)]
        return packed

    def activation_output(self, rows: int, cols: int, *, per_token: bool = False, tables: bool = False) -> Activation:
        """Room for quantized rows, and where wanted for every table; the reference also leaves them unquantized in `exact`."""
        blocks = cols // BLOCK
        return Activation(
            codes=self.output(rows, cols, dtype=np.int8),
            scales=self.output(rows, 1 if per_token else blocks),
            offsets=self.output(rows, blocks, dtype=np.int32),
            scaled_sums=self.output(rows, blocks),
            exact=np.zeros((rows + SPARE_ROWS, cols), np.float32),
            lookup=self.lookup_room(blocks) if tables else None,
        )

    def lookup_room(self, blocks: int) -> LookupRoom:
        """Room for every table, and for no tiles."""
        return LookupRoom({kind: self.empty((blocks, size), np.uint8) for kind, size in TABLE_BYTES.items()}, self.empty((1, 0), np.uint8))

    def activation(self, codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], reader: PackedMatrix | None = None) -> Activation:
        """Quantized rows as an input, their sums derived as csrc/edgellm.cdef.h defines them, and the tables that the reader needs."""
        sums = codes.reshape(len(codes), -1, BLOCK).sum(axis=2, dtype=np.int32)
        with np.errstate(all="ignore"):  # extreme scales overflow, as in the kernels
            scaled_sums = scales * sums.astype(np.float32)
        room = None
        if reader and reader.tables:
            tables = {kind: self.input(lookup_tables(kind, codes[0])) for kind in reader.tables}
            room = LookupRoom(tables, self.empty((MOST_THREADS, LOOKUP_TILES * reader.tile_bytes), np.uint8))
        return Activation(self.input(codes), self.input(scales), self.input(-8 * sums), self.input(scaled_sums), lookup=room)

    def cache(self, keys: Array, values: Array, writable: bool = False) -> CacheLayer:
        """One layer's cache with contents, as an input or, writable, as an op's output."""
        if not writable:
            return CacheLayer(self.input(keys), self.input(values))
        layer = CacheLayer(self.empty(keys.shape, keys.dtype), self.empty(values.shape, values.dtype))
        layer.keys[...], layer.values[...] = keys, values
        return layer

    def check(self) -> None:
        """Canaries, unused rows and inputs are as they were."""
        for block in self._blocks:
            assert (block.around() == CANARY).all(), f"{(block.around() != CANARY).sum()} bytes outside a buffer were written"
        for spare in self._spare:
            assert (np.ascontiguousarray(spare).view(np.uint8) == CANARY).all(), "rows of tokens that the step does not have were written"
        for array, before in self._inputs:
            assert array.tobytes() == before, f"an input, {array.dtype} {array.shape}, was changed"
