"""Files that exist whole or not at all: written beside their place, synced, then moved into it."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgellm.errors import FetchError


@contextmanager
def replacing(target: Path, remedy: str = "write elsewhere") -> Iterator[BinaryIO]:
    """A file to write that takes the place of `target` when the block ends; if the block raises, no file is left behind.

    Folders that are missing on the way to `target` are made. What a killed process left is removed by the next one that writes the same
    target. FetchError: the folder is not writable or the disk is full; it ends with `remedy`, what the user can do about it.
    """
    with storing(target, remedy):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        with _partial(target) as file:
            partial = Path(file.name)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                partial.replace(target)  # before the file is closed, and with that unlocked
            except BaseException:  # Ctrl-C too leaves nothing behind
                partial.unlink(missing_ok=True)
                raise


def _partial(target: Path) -> BinaryIO:
    """A new file beside `target`, locked, which says that its writer lives."""
    while True:
        partial = target.parent / f".{target.name}.{secrets.token_hex(8)}.partial"  # tempfile's would be readable by their owner only
        file = partial.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # taken for a dead one's, and removed, before it was locked


def _remove_leftovers(target: Path) -> None:
    """Remove the partial files of dead writers: those that are not locked. Whatever ends between two steps here was not a leftover."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with suppress(FileNotFoundError, BlockingIOError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


@contextmanager
def storing(target: Path, remedy: str) -> Iterator[None]:
    """Turn an operating system's refusal to store `target` into a FetchError that ends with `remedy`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full; free some space, or" if full else f"{error.strerror or error};"
        raise FetchError(f"{target}: cannot be written: {reason} {remedy}") from error
