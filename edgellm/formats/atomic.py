"""Files that exist whole or not at all: written beside their place, synced, then moved into it."""

from __future__ import annotations

import errno
import os
import tempfile
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
    with storing(target):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.chmod(0o666 & ~_umask())  # mkstemp's files are private; a model is an ordinary file
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
