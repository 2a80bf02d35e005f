"""A safetensors file as memory: the library checks the header, the tensors are views of the mapped file."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from edgellm.errors import ModelFileError

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "|u1", "I8": "|i1"}
"""Types that are read, with the NumPy type of their storage; BF16 comes as its bits, since NumPy has no such type."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's header entry; `start` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class SafetensorsFile:
    """A mapped file: its header's bytes, its metadata, and its tensors in file order."""

    path: Path
    data: mmap.mmap
    header: bytes
    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]

    def view(self, name: str) -> npt.NDArray[np.generic]:
        """The tensor as a read-only view of the file. KeyError: no such tensor, or one of a type that is not in DTYPES."""
        tensor = self.tensors[name]
        return np.frombuffer(self.data, DTYPES[tensor.dtype], math.prod(tensor.shape), tensor.start).reshape(tensor.shape)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Map the file; ModelFileError if it is missing, truncated or corrupt."""
    try:
        # The library refuses a header that is too long or not as it has to be, and offsets that leave the file, overlap or have holes.
        with safe_open(path, "numpy"), path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from error
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    entries = json.loads(header)
    metadata = entries.pop("__metadata__", None) or {}
    tensors = {
        name: StoredTensor(entry["dtype"], tuple(entry["shape"]), 8 + len(header) + entry["data_offsets"][0])
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
    }
    return SafetensorsFile(path, data, header, metadata, tensors)
