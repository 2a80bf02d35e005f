"""An ONNX graph built a node at a time, its weights in a file of their own (ONNX calls them external data), where they can be mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgellm.measure.backends.protocol import BackendUnavailableError

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md."""
OPSET, IR_VERSION = 21, 10
ALIGNMENT = 64  # of each array in the data file


def package(name: str) -> Any:
    """The package `onnxruntime` or `onnx`; BackendUnavailableError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise BackendUnavailableError(
            f"the backend onnxruntime is not available: {error}. Install it with: pip install 'edgellm[baselines]'"
        ) from error


class Graph:
    """A graph that grows. Its weights go to `data` as they come, so that they are never all in memory.

    location: the name of that file, which lies beside the graph's
    """

    def __init__(self, data: BinaryIO, location: str) -> None:
        self._onnx, self._data, self._location = package("onnx"), data, location
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._places: dict[bytes, int] = {}

    def node(self, kind: str, inputs: Sequence[str], outputs: str | Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Append an operator and return its first output, whose name is its own, too. An input or output "" is left out."""
        names = [outputs] if isinstance(outputs, str) else outputs
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, names, name=names[0], domain=domain, **attributes))
        return names[0]

    def constant(self, name: str, values: Sequence[int]) -> str:
        """A few int64 in the graph itself: a shape, an axis."""
        self._initializers[name] = self._onnx.numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def weights(self, name: str, array: npt.NDArray[Any]) -> str:
        """An array in the data file; one whose bytes are there already, such as the codes of a tied head, shares them."""
        raw = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(raw).digest()
        if digest not in self._places:
            self._data.write(bytes(-self._data.tell() % ALIGNMENT))
            self._places[digest] = self._data.tell()
            self._data.write(raw)
        where = {"location": self._location, "offset": str(self._places[digest]), "length": str(len(raw))}
        self._initializers[name] = self._onnx.TensorProto(
            name=name,
            dims=array.shape,
            data_type=self._type(array.dtype),
            data_location=self._onnx.TensorProto.EXTERNAL,
            external_data=[self._onnx.StringStringEntryProto(key=key, value=value) for key, value in where.items()],
        )
        return name

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """Declare an input; a dimension that has a name is free."""
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, self._type(np.dtype(dtype)), shape))
        return name

    def output(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> str:
        """Declare an output, which a node makes under this name."""
        self._outputs.append(self._onnx.helper.make_tensor_value_info(name, self._type(np.dtype(dtype)), shape))
        return name

    def serialized(self, name: str, metadata: Mapping[str, str]) -> bytes:
        """What a .onnx file holds."""
        helper = self._onnx.helper
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgellm")
        helper.set_model_props(model, dict(metadata))
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized

    def _type(self, dtype: np.dtype[Any]) -> int:
        number: int = self._onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return number
