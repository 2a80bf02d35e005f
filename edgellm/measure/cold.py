"""Cold starts: a model file that the system no longer holds in memory, as after a boot.

Linux keeps what was read of a file in its page cache. posix_fadvise(2) lets it go, but for what was not written back yet, what a process
has mapped, and what lies in a file system that is memory itself (tmpfs). So mincore(2) is asked what is left.

The file's pages are all that gets cold: those of Python and of the engine's libraries stay where they are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from pathlib import Path

import numpy as np

from edgellm.errors import ModelFileError


def drop_file_cache(path: Path) -> int | None:
    """Let the system forget the file: how many of its bytes it still holds in memory, 0 for a cold start, or None as `cached_bytes`.

    ModelFileError: it can't be read, or is no regular file.
    """
    _checked(path)
    if hasattr(os, "posix_fadvise"):
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ModelFileError(f"{path} can't be dropped from the page cache: {error.strerror}") from error
        try:
            os.fsync(file)  # what is not written back yet would stay
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
    return cached_bytes(path)


def cached_bytes(path: Path) -> int | None:
    """How many of the file's bytes are in the system's memory, in whole pages but for the last.

    None where the system does not say: it has no mincore(2), or the file is another user's and not to be written (Linux then calls all
    of it cached, so that nobody is spied on). ModelFileError as above.
    """
    status = _checked(path)
    size = status.st_size
    if size == 0:
        return 0
    if os.geteuid() not in (0, status.st_uid) and not os.access(path, os.W_OK):
        return None
    try:
        with path.open("rb") as file:
            mapped = np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), np.uint8)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} can't be mapped: {error}") from error
    resident = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    mincore = getattr(ctypes.CDLL(None), "mincore", None)
    if mincore is None or mincore(*map(ctypes.c_void_p, (mapped.ctypes.data, size, resident.ctypes.data))):
        return None
    pages = resident & 1  # the other bits are reserved
    beyond_the_end = len(pages) * mmap.PAGESIZE - size
    return int(pages.sum(dtype=np.int64)) * mmap.PAGESIZE - int(pages[-1]) * beyond_the_end


def _checked(path: Path) -> os.stat_result:
    """Its status; opening what is no regular file may wait for ever."""
    try:
        status = path.stat()
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(f"{path} is no regular file, so the page cache holds nothing of it")
    return status
