"""The compiled module, of which this is the only importer."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from edgellm.errors import InvalidRequestError, NativeError

try:
    from edgellm._native import ffi, lib
except ImportError as error:  # pragma: no cover - needs an installation without its compiled part
    raise NativeError(
        f"the compiled kernels (edgellm._native) can't be loaded: {error}. "
        "Build them with `pip install -e .`, which needs a C compiler and Python's headers"
    ) from error

__all__ = ["CData", "ffi", "lib", "pointer"]

CData = Any  # cffi's pointers and structs carry no static types


def pointer(ctype: str, array: npt.NDArray[Any]) -> CData:
    """Where the array's elements lie, as a C pointer of that type. InvalidRequestError: they do not lie one after the other, or not
    aligned. Nothing keeps the array alive.
    """
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise InvalidRequestError(f"a contiguous, aligned array was expected, not strides {array.strides} for {array.dtype} {array.shape}")
    return ffi.cast(ctype, ffi.from_buffer(array))  # array.ctypes makes objects, some of which stay for a while
