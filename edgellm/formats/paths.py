"""Questions to the file system: an answer, or a ModelFileError. `Path.exists` raises what the system says, in some versions of Python."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgellm.errors import ModelFileError


def exists(path: Path) -> bool:
    """Whether there is a file or folder; ModelFileError if that cannot be told: no permission, a name too long."""
    return _status(path) is not None


def is_folder(path: Path) -> bool:
    """Whether there is a folder; ModelFileError as from `exists`."""
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no path at all, as with a zero byte within
        return None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be reached: {error.strerror}") from error
