"""Tensors of a file: described from its header alone, read one at a time, only when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edgellm.formats.checkpoint import Tensor
from edgellm.formats.matrix import QuantizedMatrix, Scheme

FLOAT_BYTES = {"float32": 4, "float16": 2}


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


class LazyTensors(Mapping[str, Tensor]):
    """A mapping of names to tensors that reads a tensor each time it is asked for, and knows every spec without reading.

    specs: in model order, which is the order of iteration.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], read: Callable[[str], Tensor]) -> None:
        self.specs = dict(specs)
        self._read = read

    @classmethod
    def over(cls, tensors: Mapping[str, Tensor]) -> LazyTensors:
        """The same tensors with their specs, whatever mapping holds them."""
        if isinstance(tensors, LazyTensors):
            return tensors
        return cls({name: TensorSpec.of(tensor) for name, tensor in tensors.items()}, tensors.__getitem__)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.specs:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)
