"""Model files: readers that give a `Checkpoint`, and the writer of our own format."""

from __future__ import annotations

from pathlib import Path

from edgellm.errors import ModelFileError
from edgellm.formats import gguf_header, hf
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.gguf import read_gguf
from edgellm.formats.hf import read_hf
from edgellm.formats.paths import exists, is_folder
from edgellm.formats.tmac2 import read_tmac2

__all__ = ["READERS", "format_of", "open_checkpoint"]

READERS = {"gguf": read_gguf, "huggingface": read_hf, "tmac2": read_tmac2}


def open_checkpoint(path: Path) -> Checkpoint:
    """The model at `path`: a GGUF file, a .tmac2.bin, or a Hugging Face folder, told apart by content and not by name.

    ModelFileError: none of these, missing, truncated or corrupt. UnsupportedModelError: well-formed, but not implemented.
    """
    return READERS[format_of(path)](path)


def format_of(path: Path) -> str:
    """Which of READERS is for `path`, by its first bytes; ModelFileError if none is."""
    if is_folder(path):
        if not exists(path / hf.CONFIG):
            raise ModelFileError(f"{path}: a folder without {hf.CONFIG}, so not a Hugging Face model")
        return "huggingface"
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    if start[:4] == gguf_header.MAGIC:
        return "gguf"
    if start[8:] == b"{":  # safetensors: eight bytes of length, then a JSON object
        return "tmac2"
    problem = "is empty" if not start else f"starts with {start[:4]!r}"
    raise ModelFileError(f"{path}: {problem}; a model is a GGUF file, a .tmac2.bin or a Hugging Face folder")
