"""A TensorFlow Lite model file written op by op: one subgraph, the constants behind the flatbuffer.

The format is schema.fbs of TensorFlow Lite (version 3, identifier "TFL3"), through the bindings that ai-edge-litert carries. The bytes of
the constants follow the flatbuffer, each on 64 bytes and found by the `offset` of its Buffer, which counts from the start of the file:
what the format has for models that no flatbuffer can hold, and what lets them be written one after the other.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgellm.errors import ModelFileError

Array = npt.NDArray[Any]

VARIES = -1
"""The size of a dimension that resizing the inputs sets."""
ALIGNMENT = 64
_IDENTIFIER = b"TFL3"
_NOT_KNOWN_YET = 1 << 40  # an offset that takes the room of any other; 0 would take none


class Graph:
    """Ops in order of execution. A tensor is an integer, its index; each op's method gives that of what it computes, in float32."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._shapes: list[tuple[int, ...]] = []
        self._operators: list[Any] = []
        self._codes: dict[int, int] = {}  # the number that the schema has for an op -> its version
        self._constants: list[Array] = []
        self._integers: dict[tuple[int, ...], int] = {}
        self._inputs: dict[str, int] = {}

    def input(self, name: str, dtype: str, *shape: int) -> int:
        """A tensor that the caller gives, with VARIES where its size is the caller's."""
        self._inputs[name] = self._tensor(dtype, shape, name)
        return self._inputs[name]

    def constant(self, values: Array, dtype: str = "", shape: tuple[int, ...] = (), quantization: Any = None) -> int:
        """A tensor of the file; dtype and shape say what the bytes are where NumPy has no word for it."""
        self._constants.append(values)
        index = self._tensor(dtype or values.dtype.name, shape or values.shape)
        self._tensors[index].buffer = len(self._constants)  # buffer 0 is that of tensors without one
        self._tensors[index].quantization = quantization
        return index

    def per_row(self, codes: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> int:
        """A quantized matrix [N, K]: w = scale * code, with scales [N]."""
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint, quantization.quantizedDimension = scales, np.zeros(len(scales), np.int64), 0
        return self.constant(codes, quantization=quantization)

    def blockwise_int4(self, packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> int:
        """A quantized matrix [N, K]: w = scale * level, two levels -8..7 a byte [N, K / 2], the even column low, with scales [N, J]."""
        cols = 2 * packed.shape[1]
        details = schema.BlockwiseQuantizationT()
        details.scales, details.zeroPoints, details.blockSize = self.constant(scales), -1, cols // scales.shape[1]
        quantization = schema.QuantizationParametersT()
        quantization.detailsType, quantization.details = schema.QuantizationDetails.BlockwiseQuantization, details
        return self.constant(packed, "int4", (len(packed), cols), quantization)

    def unary(self, name: str, x: int) -> int:
        """LOGISTIC or RSQRT."""
        return self._op(name, [x], self._shapes[x])

    def softmax(self, x: int) -> int:
        """Over the last dimension."""
        return self._op("SOFTMAX", [x], self._shapes[x], "SoftmaxOptions", beta=1.0)

    def binary(self, name: str, a: int, b: int) -> int:
        """ADD or MUL of tensors that broadcast as NumPy's do."""
        of_a, of_b = self._shapes[a], self._shapes[b]
        rank = max(len(of_a), len(of_b))
        pairs = zip((1,) * (rank - len(of_a)) + of_a, (1,) * (rank - len(of_b)) + of_b, strict=True)
        return self._op(name, [a, b], tuple(q if p == 1 else p for p, q in pairs), f"{name.title()}Options")

    def reduce(self, name: str, x: int) -> int:
        """MEAN or SUM over the last dimension, which stays, of size 1."""
        last = self._ints(len(self._shapes[x]) - 1)
        return self._op(name, [x, last], (*self._shapes[x][:-1], 1), "ReducerOptions", keepDims=True)

    def fully_connected(self, x: int, matrix: int) -> int:
        """x [..., K] times the transposed matrix [N, K]; where the matrix is quantized, x is too, to int8 with a scale per row of x."""
        shape = (*self._shapes[x][:-1], self._shapes[matrix][0])
        options = {"keepNumDims": True, "asymmetricQuantizeInputs": True}
        return self._op("FULLY_CONNECTED", [x, matrix, -1], shape, "FullyConnectedOptions", version=12, **options)

    def batch_matmul(self, a: int, b: int, transposed: bool = False) -> int:
        """a [B, M, K] times b [B, K, N], or b [B, N, K] transposed."""
        columns = self._shapes[b][-2 if transposed else -1]
        return self._op("BATCH_MATMUL", [a, b], (*self._shapes[a][:-1], columns), "BatchMatMulOptions", adjY=transposed)

    def rows(self, table: int, indices: int) -> int:
        """Rows [L, K] of a float32 matrix [N, K] by their numbers, int32 [L]."""
        return self._op("GATHER", [table, indices], (*self._shapes[indices], *self._shapes[table][1:]), "GatherOptions")

    def embedding_lookup(self, indices: int, table: int) -> int:
        """Rows of a matrix as `rows` gives them, of one that may be quantized."""
        return self._op("EMBEDDING_LOOKUP", [indices, table], (*self._shapes[indices], self._shapes[table][1]), version=4)

    def reshape(self, x: int, *shape: int) -> int:
        """The same elements in another shape, where one dimension may be VARIES."""
        return self._op("RESHAPE", [x, self._ints(*shape)], shape, "ReshapeOptions", newShape=list(shape))

    def transpose(self, x: int, *order: int) -> int:
        """The dimensions in another order."""
        return self._op("TRANSPOSE", [x, self._ints(*order)], tuple(self._shapes[x][i] for i in order), "TransposeOptions")

    def split(self, x: int, axis: int, *sizes: int) -> tuple[int, ...]:
        """Slices that lie one after the other along an axis."""
        shape, ends = self._shapes[x], np.cumsum(sizes)
        others = sum(1 << i for i in range(len(shape)) if i != axis)
        slices = []
        for end, size in zip(map(int, ends), sizes, strict=True):
            begin, until = (self._ints(*(value if i == axis else 0 for i in range(len(shape)))) for value in (end - size, end))
            out = tuple(size if i == axis else n for i, n in enumerate(shape))
            inputs = [x, begin, until, self._ints(*[1] * len(shape))]
            slices.append(self._op("STRIDED_SLICE", inputs, out, "StridedSliceOptions", beginMask=others, endMask=others))
        return tuple(slices)

    def concatenate(self, a: int, b: int, axis: int) -> int:
        """One after the other along an axis."""
        sizes = self._shapes[a][axis], self._shapes[b][axis]
        shape = list(self._shapes[a])
        shape[axis] = VARIES if VARIES in sizes else sum(sizes)
        return self._op("CONCATENATION", [a, b], tuple(shape), "ConcatenationOptions", axis=axis)

    def shape(self, x: int) -> tuple[int, ...]:
        """What is known of it."""
        return self._shapes[x]

    @property
    def nbytes(self) -> int:
        """Of all constants so far."""
        return sum(values.nbytes for values in self._constants)

    def write(self, file: BinaryIO, outputs: Mapping[str, int], metadata: Mapping[str, bytes]) -> None:
        """The model file, with these outputs; metadata is what `read_metadata` gives back."""
        for name, index in outputs.items():
            self._tensors[index].name = name
        blobs = [*self._constants, *(np.frombuffer(text, np.uint8) for text in metadata.values())]
        ends = np.cumsum([-(-blob.nbytes // ALIGNMENT) * ALIGNMENT for blob in blobs])
        offsets = [0, *map(int, ends[:-1])]
        sizes = [blob.nbytes for blob in blobs]
        header = self._pack(outputs, metadata, sizes, [_NOT_KNOWN_YET] * len(blobs))
        start = -(-len(header) // ALIGNMENT) * ALIGNMENT
        file.write(self._pack(outputs, metadata, sizes, [start + offset for offset in offsets]))
        for offset, blob in zip(offsets, blobs, strict=True):
            file.seek(start + offset)
            file.write(np.ascontiguousarray(blob).data)

    def _pack(self, outputs: Mapping[str, int], metadata: Mapping[str, bytes], sizes: Sequence[int], offsets: Sequence[int]) -> bytes:
        """The flatbuffer, for constants and metadata of these sizes at these places of the file."""
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = list(self._inputs.values()), list(outputs.values())
        model = schema.ModelT()
        model.version, model.subgraphs = 3, [subgraph]
        model.operatorCodes = [_operator_code(code, version) for code, version in self._codes.items()]
        model.buffers = [schema.BufferT(), *(_buffer(size, offset) for size, offset in zip(sizes, offsets, strict=True))]
        model.metadata = [_metadata(name, 1 + len(self._constants) + i) for i, name in enumerate(metadata)]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())

    def _tensor(self, dtype: str, shape: tuple[int, ...], name: str = "") -> int:
        tensor = schema.TensorT()
        tensor.type, tensor.name = getattr(schema.TensorType, dtype.upper()), name or f"t{len(self._tensors)}"
        tensor.shape = [1 if size == VARIES else size for size in shape]
        tensor.shapeSignature = list(shape) if VARIES in shape else None
        tensor.buffer = 0
        self._tensors.append(tensor)
        self._shapes.append(shape)
        return len(self._tensors) - 1

    def _ints(self, *values: int) -> int:
        if values not in self._integers:
            self._integers[values] = self.constant(np.array(values, np.int32))
        return self._integers[values]

    def _op(self, name: str, inputs: list[int], shape: tuple[int, ...], options: str = "", version: int = 1, **values: Any) -> int:
        """An op by its name in the schema, with its options by their table's name and fields there."""
        code = getattr(schema.BuiltinOperator, name)
        self._codes.setdefault(code, version)
        operator = schema.OperatorT()
        operator.opcodeIndex = list(self._codes).index(code)
        operator.inputs, operator.outputs = inputs, [self._tensor("float32", shape)]
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                setattr(operator.builtinOptions, key, value)
        self._operators.append(operator)
        return int(operator.outputs[0])


def _operator_code(code: int, version: int) -> Any:
    """The schema has had the code in a byte, in which readers still look for the lower ones."""
    packed = schema.OperatorCodeT()
    packed.builtinCode, packed.deprecatedBuiltinCode, packed.version = code, min(code, 127), version
    return packed


def _buffer(size: int, offset: int) -> Any:
    packed = schema.BufferT()
    packed.size, packed.offset = size, offset
    return packed


def _metadata(name: str, buffer: int) -> Any:
    packed = schema.MetadataT()
    packed.name, packed.buffer = name, buffer
    return packed


def read_metadata(path: Path) -> dict[str, bytes]:
    """What `Graph.write` was given as metadata. ModelFileError: no TensorFlow Lite model, or one that ends too early."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            return _read_metadata(raw)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, TypeError, struct.error) as error:  # what flatbuffers makes of bytes that are none of its own
        raise ModelFileError(f"{path}: no whole TensorFlow Lite model: {error}") from error


def _read_metadata(raw: mmap.mmap) -> dict[str, bytes]:
    if raw[4:8] != _IDENTIFIER:
        raise ValueError(f"it does not say {_IDENTIFIER.decode()} at byte 4")
    model = schema.Model.GetRootAs(raw)
    places = [(model.Buffers(i).Offset(), model.Buffers(i).Size()) for i in range(model.BuffersLength())]
    if (needed := max(offset + size for offset, size in places)) > len(raw):
        raise ValueError(f"it has {len(raw)} bytes of {needed}")
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    return {entry.Name().decode(): raw[places[entry.Buffer()][0] : sum(places[entry.Buffer()])] for entry in entries}
