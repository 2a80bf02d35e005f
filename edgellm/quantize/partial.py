"""What a long quantization has done so far, in a folder beside its output, so that one that was interrupted goes on where it was.

NAME.partial/ holds `recipe.json`, which says what is being made of what, and for each finished step an .npz file of its matrices. Files of
another recipe are removed at once, the folder once the output is complete. A lock refuses a second writer of the same output.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.formats.atomic import replacing, storing
from edgellm.formats.matrix import QuantizedMatrix, Scheme

REMEDY = "quantize to a file elsewhere"
RECIPE, LOCK = "recipe.json", "lock"


@dataclass(frozen=True)
class Finished:
    """A matrix that is done. output_error: the relative squared error of what it puts out on the calibration texts."""

    matrix: QuantizedMatrix
    output_error: float


class Partial:
    """The folder of one quantization; made by `partial`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, step: str) -> dict[str, Finished] | None:
        """The matrices of a step that was finished before, by tensor; None if it was not. ModelFileError: the file is damaged."""
        path = self._folder / f"{step}.npz"
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return {name: _finished(name, arrays) for name in arrays["names"].tolist()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelFileError(f"{path} is damaged: {error}; remove the folder {self._folder} and quantize again") from error

    def store(self, step: str, finished: Mapping[str, Finished]) -> None:
        """Keep a step's matrices. FetchError: the disk is full or the folder not writable."""
        arrays: dict[str, Any] = {"names": np.array(list(finished), np.str_)}
        for name, done in finished.items():
            parts = {"codes": done.matrix.codes, "scales": done.matrix.scales, "minimums": done.matrix.minimums}
            arrays |= {f"{name}.{part}": array for part, array in parts.items() if array is not None}
            arrays |= {f"{name}.scheme": np.array(str(done.matrix.scheme)), f"{name}.error": np.array(done.output_error)}
        with replacing(self._folder / f"{step}.npz", REMEDY) as file:
            np.savez(file, **arrays)


def _finished(name: str, arrays: Mapping[str, Any]) -> Finished:
    minimums = arrays.get(f"{name}.minimums")
    scheme = Scheme.parse(str(arrays[f"{name}.scheme"]))
    return Finished(QuantizedMatrix(scheme, arrays[f"{name}.codes"], arrays[f"{name}.scales"], minimums), float(arrays[f"{name}.error"]))


@contextmanager
def partial(destination: Path, recipe: Mapping[str, Any]) -> Iterator[Partial]:
    """What there is of `destination` by this recipe (a JSON object), or nothing yet; removed when the block ends without an exception.

    InvalidRequestError: another process is making it. FetchError: the folder can't be written.
    """
    folder = destination.with_name(f"{destination.name}.partial")
    with storing(folder, REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidRequestError(
                f"{destination} is being made by another process (it holds {folder}); wait, or write elsewhere"
            ) from error
        _forget_other_recipes(folder, json.dumps(recipe, sort_keys=True))
        yield Partial(folder)
        with storing(folder, REMEDY):
            shutil.rmtree(folder)


def _forget_other_recipes(folder: Path, recipe: str) -> None:
    """Remove what was made by another recipe, or by one that is not known."""
    path = folder / RECIPE
    try:
        known = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        known = ""
    if known == recipe:
        return
    for file in folder.glob("*.npz"):
        file.unlink()
    with replacing(path, REMEDY) as written:
        written.write(recipe.encode())
