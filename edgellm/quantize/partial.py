"""What a long quantization has done so far, in a folder beside its output, so that one that was interrupted goes on where it was.

NAME.partial/ holds `recipe.json`, which says what is being made of what, and for each finished step an .npz file of its tensors. Files of
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
from types import MappingProxyType
from typing import Any

import numpy as np

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.formats.atomic import replacing, storing
from edgellm.formats.checkpoint import Tensor
from edgellm.formats.matrix import QuantizedMatrix, Scheme

REMEDY = "quantize to a file elsewhere"
RECIPE, LOCK = "recipe.json", "lock"
NO_FACTS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Finished:
    """A tensor that is done: a matrix, or the vector of a norm that was trained.

    output_error: the relative squared error of what a matrix puts out on the calibration texts; NaN where it was not fitted to them alone.
    """

    tensor: Tensor
    output_error: float


class Partial:
    """The folder of one quantization; made by `partial`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, step: str) -> dict[str, Finished] | None:
        """The tensors of a step that was finished before, by name; None if it was not. ModelFileError: the file is damaged."""
        path = self._path(step)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return {name: _finished(name, arrays) for name in arrays["names"].tolist()}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelFileError(f"{path} is damaged: {error}; remove the folder {self._folder} and quantize again") from error

    def facts(self, step: str) -> dict[str, float]:
        """What is to be told of a step; nothing where it was not needed."""
        if not self._path(step).exists():
            return {}
        with np.load(self._path(step)) as arrays:
            return dict(zip(arrays["facts"].tolist(), arrays["figures"].tolist(), strict=True))

    def store(self, step: str, finished: Mapping[str, Finished], facts: Mapping[str, float] = NO_FACTS) -> None:
        """Keep a step's tensors, and figures to tell of it. FetchError: the disk is full or the folder not writable."""
        arrays: dict[str, Any] = {"names": np.array(list(finished), np.str_)}
        arrays |= {"facts": np.array(list(facts), np.str_), "figures": np.array(list(facts.values()), np.float64)}
        for name, done in finished.items():
            arrays |= {f"{name}.{part}": array for part, array in _arrays(done.tensor).items()}
            arrays[f"{name}.error"] = np.array(done.output_error)
        with replacing(self._path(step), REMEDY) as file:
            np.savez(file, **arrays)

    def _path(self, step: str) -> Path:
        return self._folder / f"{step}.npz"


def _arrays(tensor: Tensor) -> dict[str, Any]:
    if not isinstance(tensor, QuantizedMatrix):
        return {"vector": tensor}
    parts = {"scheme": np.array(str(tensor.scheme)), "codes": tensor.codes, "scales": tensor.scales, "minimums": tensor.minimums}
    return {part: array for part, array in parts.items() if array is not None}


def _finished(name: str, arrays: Mapping[str, Any]) -> Finished:
    error, vector = float(arrays[f"{name}.error"]), arrays.get(f"{name}.vector")
    if vector is not None:
        return Finished(vector, error)
    scheme = Scheme.parse(str(arrays[f"{name}.scheme"]))
    return Finished(QuantizedMatrix(scheme, arrays[f"{name}.codes"], arrays[f"{name}.scales"], arrays.get(f"{name}.minimums")), error)


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
