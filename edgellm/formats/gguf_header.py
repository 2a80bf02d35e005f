"""A bounded parser for the header of GGUF version 2 and 3: hostile input costs an error.

Memory stays within a few times the file's text (a character of Python's takes up to four bytes) and a kilobyte for each of MAX_ENTRIES
keys and tensors, a hundred bytes for each of MAX_ELEMENTS array elements, whatever the file declares.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, two counts, the metadata, the
tensor infos, and, after padding to `general.alignment`, the tensor data.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.errors import ModelFileError, UnsupportedModelError

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MIN_KEY_BYTES = 8 + 4 + 1
MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
MAX_ENTRIES = 1 << 16
"""Of keys, and of tensors; no model comes near. An entry in memory is many times its bytes in the file, so the file's size is no bound."""

MAX_ELEMENTS = 1 << 22
"""Of all arrays together, for the same reason; the tokens, scores, types and merges of the largest vocabularies are a third of it."""

MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_DIMENSIONS = 65535, 64, 4
"""GGUF's own limits on the name of a key, the name of a tensor, and its dimensions."""

TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
}
"""ggml's number of a tensor type -> its name, weights per block, bytes per block."""

FORK_TYPES = {36: "I2_S", 37: "I8_S", 38: "TL1"}
"""Numbers that only bitnet.cpp's fork of ggml gives a meaning, which depends on the machine that wrote the file."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `nbytes` bytes of `type_name` blocks at `start` of the file; shape with the contiguous dimension last."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    start: int
    nbytes: int

    def rows(self, start: int, stop: int) -> TensorInfo:
        """Where some of the matrix's rows lie: rows are whole blocks."""
        row_bytes = self.nbytes // self.shape[0]
        shape = (stop - start, *self.shape[1:])
        return replace(self, shape=shape, start=self.start + start * row_bytes, nbytes=(stop - start) * row_bytes)


@dataclass(frozen=True)
class GGUFHeader:
    """The metadata as Python values and the tensors in file order. Every tensor lies within the file and overlaps no other."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def parse_header(data: mmap.mmap, path: Path) -> GGUFHeader:
    """Parse and check the header of the mapped file.

    ModelFileError: truncated or corrupt, naming the key or tensor and the offset. UnsupportedModelError: a version or tensor type not read.
    """
    cursor = _Cursor(data, path)
    _check_version(cursor)
    tensor_count = cursor.scalar("Q", "the tensor count")
    key_count = cursor.scalar("Q", "the key count")
    if tensor_count * MIN_TENSOR_BYTES + key_count * MIN_KEY_BYTES > len(data):
        raise cursor.corrupt(f"{tensor_count} tensors and {key_count} keys are declared, more than a file of {len(data)} bytes can hold")
    if max(tensor_count, key_count) > MAX_ENTRIES:
        raise UnsupportedModelError(f"{path}: {tensor_count} tensors and {key_count} keys are declared; at most {MAX_ENTRIES} are read")
    metadata: dict[str, Any] = {}
    for index in range(key_count):
        key = cursor.name(f"the name of key {index}", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.corrupt(f"key {key!r:.80} occurs twice")
        metadata[key] = cursor.value(f"key {key!r:.80}")
    infos = [cursor.tensor_info(index) for index in range(tensor_count)]
    return GGUFHeader(metadata, _place(cursor, infos, _alignment(metadata, path)))


class _Cursor:
    """Reads little-endian values from a mapped file; each read is checked against the file's size before it happens."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.offset = 0
        self.elements = 0

    def corrupt(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {problem} (at byte {self.offset}); the file is truncated or corrupt")

    def need(self, nbytes: int, what: str) -> None:
        left = len(self.data) - self.offset
        if nbytes > left:
            raise self.corrupt(f"{what} needs {nbytes} bytes, but {left} are left")

    def scalar(self, code: str, what: str) -> Any:
        self.need(struct.calcsize("<" + code), what)
        (value,) = struct.unpack_from("<" + code, self.data, self.offset)
        self.offset += struct.calcsize("<" + code)
        return value

    def string(self, what: str) -> str:
        return self.strings(1, what)[0]

    def name(self, what: str, max_bytes: int) -> str:
        name = self.string(what)
        if len(name.encode()) > max_bytes:
            raise self.corrupt(f"{what} is {len(name)} characters long; {max_bytes} bytes are possible")
        return name

    def strings(self, count: int, what: str) -> list[str]:
        self.need(count * 8, what)
        data, size, start = self.data, len(self.data), self.offset
        unpack_length = struct.Struct("<Q").unpack_from
        values = []
        try:
            for _ in range(count):
                stop = start + 8 + unpack_length(data, start)[0]
                if stop > size:
                    raise self.corrupt(f"{what}: a string of {stop - start - 8} bytes at byte {start} runs over the end of the file")
                values.append(data[start + 8 : stop].decode())
                start = stop
        except struct.error:
            raise self.corrupt(f"{what}: the length at byte {start} runs over the end of the file") from None
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what}: the string at byte {start} is not UTF-8: {error.reason}") from None
        self.offset = start
        return values

    def value(self, what: str) -> Any:
        kind = self.scalar("I", what)
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self.array(what)
        return self.scalar(self.code(kind, what), what)

    def array(self, what: str) -> list[Any]:
        kind, count = self.scalar("I", what), self.scalar("Q", what)
        code = "Q" if kind == STRING else self.code(kind, what)  # a string has at least its length
        nbytes = count * struct.calcsize("<" + code)
        self.need(nbytes, what)
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            raise UnsupportedModelError(
                f"{self.path}: the arrays up to {what} have {self.elements} elements; at most {MAX_ELEMENTS} are read"
            )
        if kind == STRING:
            return self.strings(count, what)
        values: list[Any] = np.frombuffer(self.data, "<" + code, count, self.offset).tolist()
        self.offset += nbytes
        return values

    def code(self, kind: int, what: str) -> str:
        if kind not in SCALARS:
            raise self.corrupt(f"{what} has the value type {kind}, which is none, or not one to stand here")
        return SCALARS[kind]

    def tensor_info(self, index: int) -> TensorInfo:
        """The next tensor info; `start` is still relative to the tensor data."""
        name = self.name(f"the name of tensor {index}", MAX_NAME_BYTES)
        what = f"tensor {name!r}"
        rank = self.scalar("I", what)
        if not 1 <= rank <= MAX_DIMENSIONS:
            raise self.corrupt(f"{what} has {rank} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        shape = tuple(self.scalar("Q", what) for _ in range(rank))[::-1]
        type_number = self.scalar("I", what)
        if type_number not in TENSOR_TYPES:
            raise UnsupportedModelError(f"{self.path}: {what} is of type {_type_not_read(type_number)}")
        type_name, block_weights, block_bytes = TENSOR_TYPES[type_number]
        if 0 in shape or shape[-1] % block_weights:
            raise self.corrupt(f"{what} has shape {shape}, whose rows are not whole {type_name} blocks of {block_weights}")
        return TensorInfo(name, shape, type_name, self.scalar("Q", what), math.prod(shape) // block_weights * block_bytes)


def _check_version(cursor: _Cursor) -> None:
    cursor.need(8, "the magic and version")
    if cursor.data[:4] != MAGIC:
        raise ModelFileError(f"{cursor.path}: not a GGUF file: it starts with {cursor.data[:4]!r}, not {MAGIC!r}")
    cursor.offset = 4
    version = cursor.scalar("I", "the version")
    if version not in (2, 3):
        advice = " (the file is big-endian)" if version in (2 << 24, 3 << 24) else ""
        raise UnsupportedModelError(f"{cursor.path}: GGUF version {version} is not read{advice}; read are versions 2 and 3, little-endian")


def _alignment(metadata: dict[str, Any], path: Path) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ModelFileError(f"{path}: key 'general.alignment' is {alignment!r}; it must be a power of two")
    return alignment


def _place(cursor: _Cursor, infos: list[TensorInfo], alignment: int) -> dict[str, TensorInfo]:
    """The infos by name with `start` counted from the start of the file, once each is known to lie in the file, aligned and alone."""
    data_start = -(-cursor.offset // alignment) * alignment
    placed: dict[str, TensorInfo] = {}
    for info in infos:
        if info.name in placed:
            raise cursor.corrupt(f"tensor {info.name!r} occurs twice")
        start = data_start + info.start
        if info.start % alignment or start + info.nbytes > len(cursor.data):
            raise ModelFileError(
                f"{cursor.path}: tensor {info.name!r} ({info.nbytes} bytes at byte {start}) does not lie, aligned to {alignment}, "
                f"within the {len(cursor.data)} bytes of the file; the file is truncated or corrupt"
            )
        placed[info.name] = TensorInfo(info.name, info.shape, info.type_name, start, info.nbytes)
    by_start = sorted(placed.values(), key=lambda info: info.start)
    for before, after in itertools.pairwise(by_start):
        if before.start + before.nbytes > after.start:
            raise ModelFileError(f"{cursor.path}: corrupt: tensors {before.name!r} and {after.name!r} overlap at byte {after.start}")
    return placed


def _type_not_read(number: int) -> str:
    """A tensor type by its name, and what to do about it."""
    if number in FORK_TYPES:
        return f"{FORK_TYPES[number]}, which only a fork of ggml reads; convert the model from its safetensors: edgellm pull hf:OWNER/NAME"
    from gguf import GGMLQuantizationType  # only needed for this error, and slower to import than a header is to parse

    try:
        name = GGMLQuantizationType(number).name
    except ValueError:
        name = f"number {number}"
    return f"{name}, which is not read; read are: {', '.join(type_name for type_name, _, _ in TENSOR_TYPES.values())}"
