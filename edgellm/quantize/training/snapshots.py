"""States of a training run on disk: safetensors files, each whole or absent, that know which run they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgellm.errors import InvalidRequestError
from edgellm.formats.atomic import replacing
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import QuantizedMatrix


def digest(settings: Mapping[str, Any]) -> str:
    """Names a run: equal settings, equal name. Values are what JSON takes, arrays, and checkpoints, whose tensors count."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, value in sorted(settings.items()):
        hashed.update(name.encode())
        for part in _parts(value):
            hashed.update(part)
    return hashed.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Checkpoint):
        for name, tensor in value.tensors.items():
            yield name.encode()
            arrays = [tensor.codes, tensor.scales, tensor.minimums] if isinstance(tensor, QuantizedMatrix) else [tensor]
            yield from (np.ascontiguousarray(array).tobytes() for array in arrays if array is not None)
    elif isinstance(value, np.ndarray):
        yield np.ascontiguousarray(value).tobytes()
    else:
        yield json.dumps(value, sort_keys=True).encode()


def write(path: Path, tensors: Mapping[str, Tensor], run: str, facts: Mapping[str, Any]) -> None:
    """Write tensors and facts, which JSON must hold exactly. FetchError: the disk is full or the folder not writable."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(contiguous, {"run": run, "facts": json.dumps(facts)})
    with replacing(path, "what was trained until the last state is kept; run again with room for more") as file:
        file.write(data)


def read(path: Path, run: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. InvalidRequestError: another run's, or a broken file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("run") != run:
                raise InvalidRequestError(
                    f"{path} is of a run with other settings, another model or other texts; name another folder (--run), or delete it"
                )
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["facts"])  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}; delete it to train from the state before") from error
