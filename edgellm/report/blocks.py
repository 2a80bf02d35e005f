"""What a report is made of, whatever format it is written in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the report's."""

    level: int
    text: str


@dataclass(frozen=True)
class Notes:
    """Lines of prose; with a list's marks if there are several things to say."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Cells under heads. The first `names` columns are words, aligned left; the others are figures, aligned right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


Block = Heading | Notes | Table
