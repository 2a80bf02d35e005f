"""What evaluations gave, on disk, so that a run that was stopped goes on where it was, and one that was had is not run again.

    FOLDER/<model's sha256, 16 digits>/<task>-<sha256 of the key, 16 digits>.json       {"of": {key}, "value": ...}

A key is the model file's sha256, the task with its version, and its parameters: whatever else the value depends on. The files of other
versions are left alone. Concurrent runs may compute the same value; each file is whole, and the last one stays.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import EdgeLLMWarning
from edgellm.formats.atomic import replacing
from edgellm.formats.fetch import MOVE_THE_CACHE, home


@dataclass(frozen=True)
class Key:
    """What a value is of. model: the sha256 of its file; params: JSON's types only."""

    model: str
    task: str
    version: int
    params: Mapping[str, Any]

    def path(self, folder: Path) -> Path:
        """The file of its value."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return folder / self.model[:16] / f"{self.task}-{digest[:16]}.json"


class Cache:
    """Values by their keys, in `folder`, by default `evaluations` in the models' cache."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = home() / "evaluations" if folder is None else folder

    def get(self, key: Key) -> Any | None:
        """The value, or None where there is none; a file that is damaged or of another key is an EdgeLLMWarning and counts as none."""
        path = key.path(self.folder)
        try:
            entry = json.loads(path.read_bytes())
            if entry["of"] != asdict(key):
                raise ValueError(f"it holds another key's value: {entry['of']!r:.200}")
            return entry["value"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"{path} is damaged and not used; what it held is computed again ({reason})", EdgeLLMWarning, stacklevel=2)
            return None

    def put(self, key: Key, value: Any) -> None:
        """Keep a value of JSON's types in place of what was there; FetchError where it cannot be written."""
        with replacing(key.path(self.folder), MOVE_THE_CACHE) as file:
            file.write(json.dumps({"of": asdict(key), "value": value}, allow_nan=False).encode())
