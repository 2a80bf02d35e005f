"""Engines beside each other: ratios of figures of the same test, with the same prompt and as many threads, on one machine with one build.

Runs follow each other, they do not take turns, so a ratio has no interval of its own. Where the figures' own intervals overlap, the
difference is not shown to be one, and the ratio is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgellm.measure.statistics import Interval
from edgellm.report.blocks import Table
from edgellm.report.numbers import DIGITS, interval, number, ratio, shortened
from edgellm.report.sources import MEASURED, Beside, Measurement, Subject

UNRESOLVED = "?"
NOTE = (
    f"{UNRESOLVED}: the 95% intervals of the two figures overlap or are not there, so no difference is shown. Runs follow each other: "
    "where the machine's own noise differs between them, so may what it did to either."
)
FIGURES = {
    "TTFT p50": "ttft_p50_ms",
    "TTFT p95": "ttft_p95_ms",
    "ITL p50": "itl_p50_ms",
    "ITL p99": "itl_p99_ms",
    "tokens/s": "tokens_per_second",
    "run std": "run_jitter_std_ms",
}


TURNS_NOTE = (
    "These took turns, round by round, so a ratio has an interval. Resolved: by what factor the same thing measured twice differs from "
    "itself; no smaller difference is one."
)


@dataclass(frozen=True)
class Ratio:
    """A figure over that of the engine that it is compared with; `resolved`: their 95% intervals are there and do not overlap."""

    value: float
    resolved: bool

    def __str__(self) -> str:
        return number(self.value) + ("" if self.resolved else UNRESOLVED)


@dataclass(frozen=True)
class Comparison:
    """A measurement and what it is compared with; ratios by their figures."""

    measurement: Measurement
    base: Measurement
    ratios: Mapping[str, Ratio]


def compare(measurements: Sequence[Measurement]) -> list[Comparison]:
    """Every engine beside this one, or the first where this one is not there; of its file, if it is in it."""
    alike: dict[tuple[object, ...], list[Measurement]] = {}
    for each in measurements:
        if not each.interrupted:
            alike.setdefault((each.test, each.prompt, each.prompt_tokens, each.subject.threads), []).append(each)
    return [comparison for group in alike.values() for comparison in _beside_first(group)]


def table(comparisons: Sequence[Comparison], names: Mapping[Subject, str]) -> Table:
    """A row for each comparison."""
    head = ("", "over", "prompt", *FIGURES)
    rows = [
        (
            names[each.measurement.subject],
            names[each.base.subject],
            f"{each.measurement.prompt} {each.measurement.prompt_tokens or ''}".strip(),
            *(str(each.ratios.get(figure, "n/a")) for figure in FIGURES.values()),
        )
        for each in comparisons
    ]
    return Table(head, tuple(rows), names=3)


def turns_table(besides: Sequence[Beside]) -> Table:
    """A row for each figure of what took turns."""
    head = ("", "over", "test", "figure", "ratio", "95%", "resolved", "limit", "verdict")
    rows = [
        (
            shortened(each.what),
            shortened(each.over),
            each.test if each.provenance == MEASURED else f"{each.test} ({each.provenance})",
            each.figure,
            number(each.ratio, DIGITS),
            interval(each.interval, DIGITS),
            number(each.resolution, DIGITS),
            "" if each.limit is None else number(each.limit, DIGITS),
            each.verdict,
        )
        for each in besides
    ]
    return Table(head, tuple(rows), names=4)


def _beside_first(group: Sequence[Measurement]) -> Iterator[Comparison]:
    ours = [each for each in group if each.subject.ours] or group[:1]
    for each in group:
        base = next((other for other in ours if other.file == each.file), ours[0])
        if each.subject.backend != base.subject.backend and (ratios := _ratios(each, base)):
            yield Comparison(each, base, ratios)


def _ratios(measurement: Measurement, base: Measurement) -> dict[str, Ratio]:
    return {
        figure: Ratio(quotient, _apart(measurement.intervals.get(figure), base.intervals.get(figure)))
        for figure in FIGURES.values()
        if figure in measurement.figures and (quotient := ratio(measurement.figures[figure], base.figures.get(figure))) is not None
    }


def _apart(one: Interval | None, other: Interval | None) -> bool:
    """Whether one interval lies wholly above the other; an open or missing bound reaches anywhere."""
    if one is None or other is None:
        return False
    return _below(one, other) or _below(other, one)


def _below(one: Interval, other: Interval) -> bool:
    return one.high is not None and other.low is not None and one.high < other.low
