"""Checked access to what a JSON file holds: every value is asked for by name and type, and a wrong one is named with its place.

A results file may have been written by anyone. What comes out of here is of the type that it was asked for, numbers are finite, and texts
hold nothing that steers a terminal.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from typing import Any

from edgellm.measure.results import ResultsError
from edgellm.measure.statistics import Interval

LONGEST_TEXT = 200
"""Characters of a text that are kept: names and reasons are shorter."""


LARGEST_COUNT = 1 << 63


class Fields:
    """A JSON object and where it stands, e.g. "latency.json: benchmarks[3].extra_info", or "latency.json:" for all of a file.

    Each method gives the value of a key; None (or what is empty) where it is absent or null, which `required` does not let pass.
    ResultsError: the value is of another type.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise wrong(value, where, "an object")
        self._values: dict[str, Any] = {key: item for key, item in value.items() if item is not None}
        self.where = where

    def required(self, key: str) -> Fields:
        """These fields, once it is known that the key is there."""
        if key not in self._values:
            raise ResultsError(
                f"{self.where} there is no {printable(key)!r}" if self.where.endswith(":") else f"{self.where} has no {key!r}"
            )
        return self

    def __iter__(self) -> Iterator[str]:
        """The keys that are there."""
        return iter(self._values)

    def text(self, key: str) -> str:
        """A text on one line, "" where there is none."""
        value = self._values.get(key, "")
        if not isinstance(value, str):
            raise wrong(value, self.at(key), "a text")
        return printable(value)

    def number(self, key: str) -> float | None:
        """A finite number."""
        return finite(self._values[key], self.at(key)) if key in self._values else None

    def required_number(self, key: str) -> float:
        """A finite number that is there."""
        return finite(self.required(key)._values[key], self.at(key))

    def count(self, key: str) -> int | None:
        """An integer that is not negative."""
        value = self._values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST_COUNT):
            raise wrong(value, self.at(key), "a count")
        return value

    def flag(self, key: str) -> bool:
        """Whether it is true."""
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            raise wrong(value, self.at(key), "true or false")
        return value

    def fields(self, key: str) -> Fields:
        """An object."""
        return Fields(self._values.get(key, {}), self.at(key))

    def list_of_fields(self, key: str) -> list[Fields]:
        """A list of objects."""
        return [Fields(item, f"{self.at(key)}[{index}]") for index, item in enumerate(self._list(key))]

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers."""
        return [finite(item, f"{self.at(key)}[{index}]") for index, item in enumerate(self._list(key))]

    def interval(self, key: str) -> Interval | None:
        """[low, high], null for the bound that is not known."""
        if key not in self._values:
            return None
        pair = self._list(key)
        if len(pair) != 2:
            raise wrong(pair, self.at(key), "[low, high]")
        low, high = (None if bound is None else finite(bound, self.at(key)) for bound in pair)
        return Interval(low, high)

    def at(self, key: str) -> str:
        """Where a key stands."""
        return f"{self.where}{' ' if self.where.endswith(':') else '.'}{printable(key)}"

    def _list(self, key: str) -> list[Any]:
        value = self._values.get(key, [])
        if not isinstance(value, list):
            raise wrong(value, self.at(key), "a list")
        return value


def finite(value: object, where: str) -> float:
    """The value as a number; ResultsError if it is none, or too large for one."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise wrong(value, where, "a finite number")


def printable(text: str) -> str:
    """The text on one line, without what would steer a terminal, and not longer than is read."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:LONGEST_TEXT])
    return shown + ("..." if len(text) > LONGEST_TEXT else "")


def wrong(value: object, where: str, wanted: str) -> ResultsError:
    """What is said of a value that is not what it must be."""
    return ResultsError(f"{where} is {printable(reprlib.repr(value))}; it must be {wanted}")
