"""Is B slower than A? Both take turns in one run, and the answer is a ratio with its interval, or that none is resolved.

A machine drifts: its frequency, its temperature, its other guests. So A and B run one round each, in pairs whose order alternates
(A B, B A, A B, ...: what drifts steadily favours neither), and are compared within a pair, where the drift is nearly the same.

A figure of a round (its p50, p99, jitter: the standard deviation, p99/p50) gives one ratio B/A a pair; the median of the pairs' ratios is
the result, and the bootstrap over pairs its interval. The median makes it what a typical round shows: a burst of the machine that hits
less than half of the pairs decides nothing, and neither does a fault of B that is rarer than every other round.

Even A against itself gives a ratio that is not quite 1; how far from 1 its interval reaches is the resolution, and no difference within
that is called one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from edgellm.errors import InvalidRequestError
from edgellm.measure.results import Record
from edgellm.measure.statistics import F64, Statistic, bootstrap_interval, checked, p99_over_p50, std

Run = Callable[[], Sequence[int]]
"""One round: the nanoseconds of each of its calls, in order."""
Rounds = list[list[int]]
Verdict = Literal["faster", "slower", "no difference resolved"]

FIGURES: Mapping[str, Statistic] = {
    "p50": lambda calls: np.asarray(np.median(calls, axis=-1)),
    "p99": lambda calls: np.asarray(np.percentile(calls, 99, axis=-1)),
    "jitter": std,
    "p99_over_p50": p99_over_p50,
}
"""Of the calls of one round. All but p50 need two calls."""

WARMUP = 2


@dataclass(frozen=True)
class Ratio:
    """B's figure over A's in a typical pair, and its 95% interval. All are None where a round has no such figure, or it is 0; the
    interval also with a single pair.
    """

    ratio: float | None
    low: float | None
    high: float | None

    @property
    def difference(self) -> float | None:
        """How many times slower or faster B is, whichever it is."""
        return None if self.ratio is None else max(self.ratio, 1 / self.ratio)

    @property
    def resolution(self) -> float | None:
        """Of A against itself: how many times slower or faster B would have to be at the least, to be told from that."""
        return None if self.low is None or self.high is None else max(self.high, 1 / self.low)

    def verdict(self, resolution: float | None) -> Verdict:
        """What can be said of B where A is known to `resolution`; nothing where that is not known, or this has no interval."""
        if resolution is not None and self.low is not None and self.low > resolution:
            return "slower"
        if resolution is not None and self.high is not None and self.high < 1 / resolution:
            return "faster"
        return "no difference resolved"


@dataclass(frozen=True)
class Comparison:
    """What both took, a round of `a_ns` with that of `b_ns` at the same place, and each figure's ratio B/A.

    `interrupted`: Ctrl-C came before all the pairs were done; these are the ones that were.
    """

    a_ns: Rounds
    b_ns: Rounds
    ratios: dict[str, Ratio]
    interrupted: bool

    def record(self) -> Record:
        """All of it, for a results file."""
        return asdict(self)


def compare(a: Run, b: Run, rounds: int, warmup: int = WARMUP) -> Comparison:
    """Run `rounds` pairs after `warmup` discarded ones. Ctrl-C ends it early, but is passed on before the first pair is done.

    Raises InvalidRequestError for fewer rounds than 1 or a negative warm-up, before anything runs, and for a round without calls.
    """
    pairs: list[dict[str, list[int]]] = []
    interrupted = False
    try:
        for pair in take_turns({"a": a, "b": b}, rounds, warmup):
            pairs.append(pair)  # noqa: PERF402 - `extend` does not say that it keeps what came before an interrupt
    except KeyboardInterrupt:
        if not pairs:
            raise
        interrupted = True
    a_ns, b_ns = [pair["a"] for pair in pairs], [pair["b"] for pair in pairs]
    return Comparison(a_ns, b_ns, ratios(a_ns, b_ns), interrupted)


def resolution(a: Run, rounds: int, warmup: int = WARMUP) -> dict[str, float | None]:
    """Measure A against itself: figure -> the ratio (at least 1) up to which nothing can be called a difference here. None: unknown."""
    return {figure: ratio.resolution for figure, ratio in compare(a, a, rounds, warmup).ratios.items()}


def take_turns(runs: Mapping[str, Run], rounds: int, warmup: int = WARMUP) -> Iterator[dict[str, list[int]]]:
    """A round of each per turn, in the order given and its reverse alternately, after `warmup` turns that are discarded: name -> calls."""
    if rounds < 1 or warmup < 0:
        raise InvalidRequestError(f"{rounds} rounds after {warmup} of warm-up are not possible; at least 1 after at least 0 are")
    return _turns(runs, rounds, warmup)


def _turns(runs: Mapping[str, Run], rounds: int, warmup: int) -> Iterator[dict[str, list[int]]]:
    order = list(runs)
    for number in range(warmup + rounds):
        done = {name: list(runs[name]()) for name in order}
        order.reverse()
        if number >= warmup:
            yield done


def ratios(a_ns: Sequence[Sequence[int]], b_ns: Sequence[Sequence[int]], *a_again_ns: Sequence[Sequence[int]]) -> dict[str, Ratio]:
    """Each figure's ratio B/A over pairs of rounds. Where A ran in several processes that took turns, its figure of a turn is their
    geometric mean.
    """
    b_rounds, *a_runs = ([checked(calls) for calls in rounds] for rounds in (b_ns, a_ns, *a_again_ns))
    few = min(calls.size for rounds in (b_rounds, *a_runs) for calls in rounds) < 2
    return {
        name: Ratio(None, None, None) if few and name != "p50" else _ratio(figure, a_runs, b_rounds) for name, figure in FIGURES.items()
    }


def _ratio(figure: Statistic, a_runs: list[list[F64]], b_rounds: list[F64]) -> Ratio:
    b, *a_each = (np.array([figure(calls) for calls in rounds]) for rounds in (b_rounds, *a_runs))
    if not all(figures.all() for figures in (b, *a_each)):
        return Ratio(None, None, None)
    a = np.exp(np.mean(np.log(a_each), axis=0))
    low, high = bootstrap_interval(_median_ratio, list(a[:, np.newaxis]), list(b[:, np.newaxis]))
    return Ratio(float(_median_ratio(a, b)), low, high)


def _median_ratio(a: F64, b: F64) -> F64:
    """Half-way on a logarithmic scale between the two in the middle, so that it is 1/x when A and B change places."""
    return np.asarray(np.exp(np.median(np.log(b / a), axis=-1)))
