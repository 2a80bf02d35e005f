"""How figures and names are written: three significant digits, "n/a" for what there is not."""

from __future__ import annotations

import math

from edgellm.measure.statistics import Interval

NOT_AVAILABLE = "n/a"
DIGITS = 4
"""Of what is compared with a limit or with 1; other figures are given to 3."""
SMALLEST, LARGEST = 1e-9, 1e12
"""Beyond these, which nothing here measures, numbers are written with an exponent."""


def number(value: float | None, digits: int = 3) -> str:
    """The value with so many significant digits, or more where it has more before the point."""
    if value is None:
        return NOT_AVAILABLE
    if value != 0 and not SMALLEST <= abs(value) < LARGEST:
        return f"{value:.{digits}g}"
    if value == int(value):
        return str(int(value))
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def ratio(value: float, other: float | None) -> float | None:
    """One over the other; None where that is no number, or there is no other."""
    quotient = value / other if other else math.inf
    return quotient if math.isfinite(quotient) else None


def interval(bounds: Interval | None, digits: int = 3) -> str:
    """ "[low, high]", "?" for an open bound; nothing for no interval."""
    if bounds is None:
        return ""
    low, high = ("?" if bound is None else number(bound, digits) for bound in bounds)
    return f"[{low}, {high}]"


def with_interval(value: float | None, bounds: Interval | None, digits: int = 3) -> str:
    """Both, as far as they are there."""
    return f"{number(value, digits)} {interval(bounds, digits)}".strip()


def shortened(text: str, width: int = 28) -> str:
    """The beginning of a name that is longer than its column."""
    return text if len(text) <= width else f"{text[: width - 3]}..."
