"""Arrays that are views of a mapped file: their pages count as the process's memory until they are given back."""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np

from edgellm.formats.checkpoint import Tensor
from edgellm.formats.matrix import QuantizedMatrix


def drop_pages(tensor: Tensor) -> None:
    """Give the pages of the file that the tensor is a view of back, all of them, once it has been read; what is touched again is read again
    from the file. A tensor that maps no file is left alone.
    """
    parts = (tensor.codes, tensor.scales, tensor.minimums) if isinstance(tensor, QuantizedMatrix) else (tensor,)
    for part in parts:
        base: object = part
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, memoryview):
            base = base.obj
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            with suppress(OSError):  # a process that is locked in memory keeps its pages
                base.madvise(mmap.MADV_DONTNEED)
