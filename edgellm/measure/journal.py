"""What was measured so far, on disk while it is being measured: a line of JSON per round.

Lines, version 1:

    {"schema": "edgellm-journal", "version": 1, "created": ..., "fingerprint": {...}}      the first
    {"test": ..., "backend": {...}, "prompt": {...}, "round": {...}}                      each round, fields as in the final file

A run that is killed, or whose final file does not fit on the disk, loses at most the round that it was in.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

SCHEMA = "edgellm-journal"
VERSION = 1


class Journal:
    """Appends to the file, which it begins anew with the first line; one that a killed run left gets the ending .before.jsonl.

    A full disk ends the journal and nothing else: `broken` says why.
    """

    def __init__(self, path: Path, fingerprint: dict[str, Any]) -> None:
        self.path = path
        self.broken: str | None = None
        self.lines = 0
        self._fingerprint = fingerprint
        self._file: IO[str] | None = None

    def append(self, record: dict[str, Any]) -> None:
        """Write a round; it is with the system when this returns."""
        if self.broken is None:
            try:
                self._write(record)
            except OSError as error:
                self.broken = f"{self.path} could not be written: {error.strerror}"

    def close(self, remove: bool) -> None:
        """End it; where another file has all of it, remove it."""
        try:
            if self._file:
                self._file.close()
            if remove:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            self.broken = f"{self.path} could not be closed: {error.strerror}"

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():  # of a run that was killed
                self.path.replace(self.path.with_suffix(".before.jsonl"))
            self._file = self.path.open("w", encoding="utf-8")
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._line({"schema": SCHEMA, "version": VERSION, "created": now, "fingerprint": self._fingerprint})
        self._line(record)
        self.lines += 1

    def _line(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
