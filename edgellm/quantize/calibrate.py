"""Calibration texts, and the token sequences that a model is shown of them while it is quantized."""

from __future__ import annotations

import gzip
import hashlib
import os
import pydoc_data.topics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError

I32 = npt.NDArray[np.int32]

SEQUENCES = 32
LENGTH = 1024
SHORTEST = 64
"""Tokens that a text must have."""
KNOWN_FILES = ("calibration_wikitext2_train.txt.gz", "calibration_mixed.txt.gz")
"""In the folder that EDGELLM_DATA names: two domains, because a model that is fitted to one loses on others."""


@dataclass(frozen=True)
class CalibrationText:
    """name: of its file, without folders. sha256: of the text in UTF-8, for the provenance."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def calibration_texts(files: Sequence[Path] = ()) -> list[CalibrationText]:
    """The files' texts; without files those that EDGELLM_DATA's folder holds; without these one that every CPython carries.

    InvalidRequestError: a file that cannot be read, is empty, or is no text in UTF-8.
    """
    folder = os.environ.get("EDGELLM_DATA")
    known = [Path(folder) / name for name in KNOWN_FILES] if folder else []
    if chosen := list(files) or [path for path in known if path.is_file()]:
        return [read_text(path) for path in chosen]
    return [CalibrationText("pydoc_data.topics", "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)))]


def read_text(path: Path) -> CalibrationText:
    """A text file, maybe gzipped (NAME.gz)."""
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"{path} is no calibration text: it is not UTF-8 ({error}); give plain text, or gzipped as .gz"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidRequestError(f"the calibration text {path} cannot be read: {error}") from error
    if "\0" in text:
        raise InvalidRequestError(f"{path} is no calibration text: it holds zero bytes; give plain text, or gzipped as .gz")
    if not text.strip():
        raise InvalidRequestError(f"the calibration text {path} is empty")
    return CalibrationText(path.name, text)


def sequences(
    texts: Sequence[CalibrationText], encode: Callable[[str], list[int]], bos_id: int | None, count: int = SEQUENCES, length: int = LENGTH
) -> I32:
    """Token ids [S, L]: windows spread evenly over each text, from all texts equally many, as far as they reach. Every other one begins
    with BOS, where the model has one: models are run with and without.

    L is `length`, or less where the shortest text has fewer tokens. InvalidRequestError: one has fewer than SHORTEST.
    """
    encoded = [encode(text.text) for text in texts]
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) < SHORTEST:
            raise InvalidRequestError(f"the calibration text {text.name} has {len(ids)} tokens; at least {SHORTEST} are needed")
    length = min(length, *map(len, encoded))
    share = -(-count // len(encoded))
    windows = [ids[start : start + length] for ids in encoded for start in _starts(len(ids), share, length)][:count]
    if bos_id is not None:
        windows[::2] = [[bos_id, *window[:-1]] for window in windows[::2]]
    return np.array(windows, np.int32)


def _starts(tokens: int, count: int, length: int) -> list[int]:
    """Of at most `count` windows that do not overlap, the first at the beginning and the last at the end."""
    fitting = min(count, tokens // length)
    return [(tokens - length) * i // max(fitting - 1, 1) for i in range(fitting)]
