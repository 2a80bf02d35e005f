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
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `target` when the block ends; if the block raises, nothing is left behind.

    What a killed process left is removed by the next one that writes the same target.
    FetchError: the folder is missing or not writable, or the disk is full.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")  # tempfile's files would be readable by their owner only
    with storing(target):
        _remove_leftovers(target)
        try:
            with partial.open("xb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # says that we live
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:  # Ctrl-C too leaves nothing behind
            partial.unlink(missing_ok=True)
            raise


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with leftover.open("rb") as file, suppress(BlockingIOError):  # locked: another process is writing it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink(missing_ok=True)


@contextmanager
def storing(target: Path) -> Iterator[None]:
    """Turn an operating system's refusal to store `target` into a FetchError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(f"{target}: the disk is full; free some space or write elsewhere (EDGELLM_HOME moves the cache)") from error
        raise FetchError(f"{target}: cannot be written: {error.strerror or error} (EDGELLM_HOME moves the cache)") from error
