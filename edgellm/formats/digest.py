"""The identity of a model's source: one sha256 for a file, and one for a folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgellm.errors import ModelFileError
from edgellm.formats.hf import model_files


def sha256_of(source: Path) -> str:
    """The sha256 of a file, in hexadecimal. Of a Hugging Face folder: that of the lines `sha256sum` prints for its model files, by name."""
    try:
        if source.is_dir():
            lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in model_files(source))
            return hashlib.sha256(lines.encode()).hexdigest()
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"{source}: cannot be read: {error.strerror}") from error
