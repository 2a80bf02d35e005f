"""Files that exist whole or not at all: written beside their place, synced, then moved into it."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgellm.errors import FetchError


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `target` when the block ends; if the block raises, nothing is left behind.

    FetchError: the folder is missing or not writable, or the disk is full.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")  # tempfile's files would be readable by their owner only
    with storing(target):
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except BaseException:  # Ctrl-C too leaves nothing behind
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def storing(target: Path) -> Iterator[None]:
    """Turn an operating system's refusal to store `target` into a FetchError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(f"{target}: the disk is full; free some space or write elsewhere (EDGELLM_HOME moves the cache)") from error
        raise FetchError(f"{target}: cannot be written: {error.strerror or error} (EDGELLM_HOME moves the cache)") from error
