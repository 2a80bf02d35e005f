"""Memory at one address in two processes: where arrays live that an emulated kernel is given."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

import numpy as np
import numpy.typing as npt

ADDRESS = 0x55 << 40  # where neither a system nor a sanitizer puts anything by itself
NBYTES = 4 << 30  # of address space: pages cost memory once they are touched
ALIGNMENT = 64
MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x4000, 0x100000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


class Arena:
    """Hands out zeroed arrays of bytes, and begins anew when the last of them is gone."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("edgellm-emulated")
        os.truncate(self.fd, NBYTES)
        flags = mmap.MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE
        address = _libc.mmap(ADDRESS, NBYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, self.fd, 0)
        assert address == ADDRESS, f"no memory could be mapped at {ADDRESS:#x}: {os.strerror(ctypes.get_errno())}"
        self._used = self._alive = 0

    def empty(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """uint8 [nbytes], zeroed, its first byte 64-byte aligned."""
        start, self._used = self._used, self._used - (-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        assert self._used <= NBYTES, f"the emulated kernels' memory, {NBYTES} bytes, is full"
        block = (ctypes.c_uint8 * nbytes).from_address(ADDRESS + start)
        self._alive += 1
        weakref.finalize(block, self._gone)
        return np.ctypeslib.as_array(block)

    def holding(self, content: bytes) -> npt.NDArray[np.uint8]:
        """A copy of these bytes."""
        copy = self.empty(len(content))
        copy[:] = np.frombuffer(content, np.uint8)
        return copy

    def _gone(self) -> None:
        self._alive -= 1
        if self._alive == 0:  # emptying the file zeroes its pages in both processes
            os.truncate(self.fd, 0)
            os.truncate(self.fd, NBYTES)
            self._used = 0
