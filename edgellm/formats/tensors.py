"""Tensors of a file: described from its header alone, read some rows at a time, only when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edgellm.formats.checkpoint import Tensor
from edgellm.formats.matrix import QuantizedMatrix, Scheme

FLOAT_BYTES = {"float32": 4, "float16": 2}
WEIGHTS_AT_ONCE = 1 << 20
"""Weights that are read, changed and written together: what is made of them on the way takes some times their size."""


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a matrix, or the numbers of a vector, as many at a time as hold WEIGHTS_AT_ONCE."""
    step = max(1, WEIGHTS_AT_ONCE // math.prod(shape[1:]))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def take_rows(tensor: Tensor, rows: slice) -> Tensor:
    """Some rows of a tensor in memory, without a copy of their weights."""
    return tensor.take_rows(rows) if isinstance(tensor, QuantizedMatrix) else tensor[rows]


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor will be once it is read.

    shape:       (N, K) or (N,)
    form:        "float32", "float16" or the name of a scheme, such as "int4-min-g32"
    source_type: its type in the words of the file that holds it: "Q4_1", "BF16"
    """

    shape: tuple[int, ...]
    form: str
    source_type: str

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """The spec of a tensor in memory."""
        form = str(tensor.scheme) if isinstance(tensor, QuantizedMatrix) else tensor.dtype.name
        return cls(tensor.shape, form, form)

    @property
    def scheme(self) -> Scheme | None:
        """The quantization scheme; None for a float tensor."""
        return None if self.form in FLOAT_BYTES else Scheme.parse(self.form)

    @property
    def weights(self) -> int:
        """How many weights it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes stored: the floats, or the codes, scales and minimums."""
        if self.scheme is None:
            return self.weights * FLOAT_BYTES[self.form]
        rows, cols = self.shape
        return self.scheme.nbytes(rows, cols)

    def blocks(self) -> Iterator[slice]:
        """The rows to read together: some at a time, but all of them where they share one scale."""
        return iter([slice(0, self.shape[0])]) if self.scheme and self.scheme.group == "tensor" else row_blocks(self.shape)


class LazyTensors(Mapping[str, Tensor]):
    """A mapping of names to tensors that reads a tensor, or some of its rows, each time it is asked for, and knows every spec without.

    specs: in model order, which is the order of iteration. read: gives the rows, from a start to a stop, of the tensor of a name.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], read: Callable[[str, slice], Tensor]) -> None:
        self.specs = dict(specs)
        self._read = read

    @classmethod
    def over(cls, tensors: Mapping[str, Tensor]) -> LazyTensors:
        """The same tensors with their specs, whatever mapping holds them."""
        if isinstance(tensors, LazyTensors):
            return tensors
        specs = {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}
        return cls(specs, lambda name, rows: take_rows(tensors[name], rows))

    def __getitem__(self, name: str) -> Tensor:
        return self._read(name, slice(0, self.specs[name].shape[0]))

    def rows(self, name: str, rows: slice) -> Tensor:
        """Rows of a tensor, as one of its spec's `blocks` has them."""
        return self._read(name, rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)
