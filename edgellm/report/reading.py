"""Opens result files and tells by what they hold which of the three kinds each is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgellm.errors import InvalidRequestError
from edgellm.measure import journal, results
from edgellm.measure.results import ResultsError, as_results, parse_json, read_text
from edgellm.report.latency import read_benchmarks, read_journal
from edgellm.report.records import read_records
from edgellm.report.sources import Source


def read_all(paths: Sequence[Path]) -> tuple[list[Source], list[str]]:
    """Every file that can be read, once however often it is named, and a line for each that cannot."""
    sources, problems = [], []
    for path in {path.resolve(): path for path in paths}.values():
        try:
            sources.append(read(path))
        except ResultsError as error:
            problems.append(str(error))
    return sources, problems


def read(path: Path) -> Source:
    """One file; ResultsError names it, and the place in it, and what is wrong there."""
    try:
        with np.errstate(over="raise", invalid="raise"):
            return _told_apart(path, read_text(path))
    except (InvalidRequestError, FloatingPointError) as error:  # what statistics say of samples that are none
        raise ResultsError(f"{path}: {error}") from error


def _told_apart(path: Path, text: str) -> Source:
    if _is_journal(text):
        return read_journal(text, str(path))
    try:
        document = parse_json(text)
    except ValueError as error:
        raise ResultsError(f"cannot read the results file {path}: {error}") from error
    if isinstance(document, dict) and document.get("schema") == results.SCHEMA:
        return read_records(as_results(document, path), str(path))
    if isinstance(document, dict) and "benchmarks" in document:
        return read_benchmarks(document, str(path))
    raise ResultsError(f"{path} is no results file: neither {results.SCHEMA}, nor pytest-benchmark's JSON, nor {journal.SCHEMA}")


def _is_journal(text: str) -> bool:
    """Whether the first line, by itself, is a journal's head."""
    try:
        head = parse_json(text.split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(head, dict) and head.get("schema") == journal.SCHEMA
