"""Values of `config.json`, each checked as it is read: what is wrong is a ModelFileError that names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from edgellm.errors import ModelFileError

LARGEST = 1 << 24
"""Of any integer: no real model comes near, and products of two stay exact."""


def integer(keys: Mapping[str, Any], key: str) -> int:
    """An integer between 1 and LARGEST."""
    value = keys.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ModelFileError(f"config key {key} = {value!r:.80}; an integer between 1 and {LARGEST} is needed")
    return value


def number(keys: Mapping[str, Any], key: str, smallest: float = 1e-30) -> float:
    """A number between smallest and 1e12."""
    value = keys.get(key)
    if not _is_number(value) or not smallest <= value < 1e12:
        raise ModelFileError(f"config key {key} = {value!r:.80}; a number between {smallest:g} and 1e12 is needed")
    return float(value)


def numbers(keys: Mapping[str, Any], key: str, count: int, smallest: float) -> tuple[float, ...]:
    """A list of `count` numbers between smallest and 1e12."""
    values = keys.get(key)
    if not isinstance(values, list) or len(values) != count or not all(_is_number(v) and smallest <= v < 1e12 for v in values):
        raise ModelFileError(f"config key {key} = {values!r:.80}; a list of {count} numbers between {smallest:g} and 1e12 is needed")
    return tuple(map(float, values))


def boolean(keys: Mapping[str, Any], key: str) -> bool:
    """True or false."""
    value = keys.get(key)
    if not isinstance(value, bool):
        raise ModelFileError(f"config key {key} = {value!r:.80}; true or false is needed")
    return value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
