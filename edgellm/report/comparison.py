"""Engines beside each other: ratios of figures, only of what one run measured with the same prompt and as many threads.

The runs of a file follow each other, they do not take turns, so a ratio has no interval of its own. Where the figures' own intervals
overlap, the difference is not shown to be one, and the ratio is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgellm.measure.statistics import Interval
from edgellm.report.blocks import Table
from edgellm.report.numbers import number
from edgellm.report.sources import Measurement, Subject

OURS = "edgellm"
UNRESOLVED = "?"
NOTE = f"{UNRESOLVED}: the 95% intervals of the two figures overlap or are not there, so no difference is shown."
FIGURES = {
    "TTFT p50": "ttft_p50_ms",
    "TTFT p95": "ttft_p95_ms",
    "ITL p50": "itl_p50_ms",
    "ITL p99": "itl_p99_ms",
    "tokens/s": "tokens_per_second",
    "run std": "run_jitter_std_ms",
}


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
    """Every measurement beside this engine's of the same file, prompt and threads, or beside the first where it has none."""
    alike: dict[tuple[object, ...], list[Measurement]] = {}
    for each in measurements:
        alike.setdefault((each.file, each.prompt, each.prompt_tokens, each.subject.threads), []).append(each)
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


def _beside_first(group: Sequence[Measurement]) -> Iterator[Comparison]:
    base = next((each for each in group if each.subject.backend == OURS), group[0])
    for each in group:
        if each.subject != base.subject and (ratios := _ratios(each, base)):
            yield Comparison(each, base, ratios)


def _ratios(measurement: Measurement, base: Measurement) -> dict[str, Ratio]:
    ours, theirs = measurement.figures, base.figures
    return {
        figure: Ratio(ours[figure] / theirs[figure], _apart(measurement.intervals.get(figure), base.intervals.get(figure)))
        for figure in FIGURES.values()
        if figure in ours and theirs.get(figure)
    }


def _apart(one: Interval | None, other: Interval | None) -> bool:
    """Whether one interval lies wholly above the other; an open or missing bound reaches anywhere."""
    if one is None or other is None:
        return False
    return _below(one, other) or _below(other, one)


def _below(one: Interval, other: Interval) -> bool:
    return one.high is not None and other.low is not None and one.high < other.low
