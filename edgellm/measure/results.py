"""Results on disk: one JSON file per run, complete after every record.

Schema, version 1:

    {
      "schema":      "edgellm-results",
      "version":     1,
      "kind":        what was run: "bench", "peers", ...
      "created":     ISO 8601, UTC
      "provenance":  "measured" | "estimated" | "emulated" | "published", of every number in the file
      "fingerprint": see `edgellm.measure.fingerprint`
      "records":     [ {...}, ... ]   one per case, raw samples included; the fields depend on the kind
    }
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from edgellm.errors import EdgeLLMError, FetchError
from edgellm.formats.atomic import replacing

SCHEMA = "edgellm-results"
VERSION = 1
MAX_BYTES = 1 << 28
"""Of a file that is read. Thousands of rounds with every token's time take a few million."""
PROVENANCES = ("measured", "estimated", "emulated", "published")

Record = dict[str, Any]


class ResultsError(EdgeLLMError):
    """A results file cannot be written or read, or is not of a version that this program knows."""


class ResultsFile:
    """Writes a results file. Use it as a context manager:

        with ResultsFile(path, kind="bench", fingerprint=fingerprint()) as results:
            record = results.append({"test": "tg64", "samples_ns": []})
            record["samples_ns"].append(...)      # kept even when Ctrl-C or an error leaves the block here

    Each save replaces the file in one step, so that what was saved before survives a full disk or a power cut.
    """

    def __init__(self, path: Path, *, kind: str, fingerprint: dict[str, Any], provenance: str = "measured") -> None:
        if provenance not in PROVENANCES:
            raise ResultsError(f"provenance {provenance!r} is unknown; known: {', '.join(PROVENANCES)}")
        self.path = path
        self._document: dict[str, Any] = {
            "schema": SCHEMA,
            "version": VERSION,
            "kind": kind,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": provenance,
            "fingerprint": fingerprint,
            "records": [],
        }
        self.save()

    def append(self, record: Record) -> Record:
        """Add a record, save, and give the record back to be filled further."""
        self._document["records"].append(record)
        self.save()
        return record

    def save(self) -> None:
        """Write everything so far; ResultsError names the file, and leaves what was there before untouched."""
        try:
            text = as_json(self._document)
        except (TypeError, ValueError) as error:
            raise ResultsError(f"cannot write the results file {self.path}: {error}") from error
        try:
            with replacing(self.path) as file:
                file.write(text.encode())
        except FetchError as error:
            raise ResultsError(f"cannot write the results file: {error}") from error

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.save()


def as_json(document: Any) -> str:
    """Indented, but for lists of numbers, which stand in a row; ValueError for NaN and infinity, which JSON does not have."""
    return _NUMBERS.sub(_in_a_row, json.dumps(document, indent=1, allow_nan=False)) + "\n"


_NUMBERS = re.compile(r"\[\n\s*(-?\d[^\[\]\"{}]*?)\n\s*\]")
"""A list of numbers alone, as json.dumps indents it."""


def _in_a_row(numbers: re.Match[str]) -> str:
    """Samples come in thousands: a line of its own for each hides everything else."""
    return f"[{' '.join(numbers[1].split())}]"


def read_results(path: Path) -> dict[str, Any]:
    """A results file's document, as in the schema above; ResultsError if it is not one of a known version."""
    return as_results(read_json(path), path)


def as_results(document: Any, path: Path) -> dict[str, Any]:
    """The document that was read from the path, once it is known to be a results file's; ResultsError as `read_results`."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ResultsError(f'{path} is not a results file: it has no "schema": "{SCHEMA}"')
    if document.get("version") != VERSION:
        raise ResultsError(f"{path} is of version {document.get('version')!r}; this program reads version {VERSION}")
    return document


def read_json(path: Path) -> Any:
    """What a JSON file holds; ResultsError if it is larger than MAX_BYTES, not JSON (which knows no NaN), or too deeply nested."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise ResultsError(f"cannot read the results file {path}: {error}") from error


def read_text(path: Path) -> str:
    """What a file holds; ResultsError if it is none that can be read, larger than MAX_BYTES, or not UTF-8."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ResultsError(f"cannot read the results file {path}: it has {size:,} bytes; at most {MAX_BYTES:,} are read")
        if not path.is_file():
            raise ResultsError(f"cannot read the results file {path}: it is not a file")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot read the results file {path}: {error}") from error


def parse_json(text: str) -> Any:
    """What the text says; ValueError where it is no JSON, too deeply nested, or holds NaN or an infinity."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no JSON number")
