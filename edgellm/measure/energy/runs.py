"""Joules per token: the power of the idle machine first, then runs that each say how many tokens they made.

Two ways to the same result. With a provider on this machine, `measure_runs`. With a power meter whose log comes later, `timed_runs` notes
when everything was, and `runs_from_log` reads the log.

A run's joules are everything that the provider covers. Net of idle they are what the run added: joules - idle watts * seconds. The mean
over runs comes with Student's 95% interval (scipy.stats.t); the net one takes the idle power as known, which one long reading is not quite.
Runs without a reading are left out of the means, and counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from edgellm.errors import InvalidRequestError
from edgellm.measure.energy.alignment import Alignment, Stretch, read_stretch
from edgellm.measure.energy.meter import EnergyMeter
from edgellm.measure.energy.provider import Clock, EnergyReading
from edgellm.measure.energy.usb_meter import MeterLog

ROUNDS = 50
IDLE_SECONDS = 10.0
FIGURES = ("joules_per_token", "net_joules_per_token", "idle_watts", "active_watts")

T = TypeVar("T")

Run = Callable[[], int]
"""Does the work once, and says how many tokens it made."""
Sleep = Callable[[float], object]


@dataclass(frozen=True)
class EnergyRun:
    """One run: its energy, and the tokens that it made."""

    reading: EnergyReading
    tokens: int


@dataclass(frozen=True)
class Mean:
    """Over `n` runs; `ci95` is None with one."""

    mean: float
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class EnergyRuns:
    """The machine idle, and the runs."""

    idle: EnergyReading
    runs: tuple[EnergyRun, ...]

    @property
    def joules_per_token(self) -> Mean | None:
        """Of all that was drawn; None if no run could be read."""
        return mean([joules / run.tokens for run, joules in self._read()])

    @property
    def net_joules_per_token(self) -> Mean | None:
        """Of what was drawn beyond the idle power; None if no run could be read, or the idle machine could not."""
        idle_watts = self.idle.watts
        if idle_watts is None:
            return None
        return mean([(joules - idle_watts * run.reading.seconds) / run.tokens for run, joules in self._read()])

    @property
    def active_watts(self) -> float | None:
        """Joules of the runs over their seconds."""
        seconds = sum(run.reading.seconds for run, _ in self._read())
        return sum(joules for _, joules in self._read()) / seconds if seconds else None

    @property
    def problems(self) -> dict[str, int]:
        """Why runs could not be read, and how many."""
        reasons = [run.reading.problem for run in self.runs if run.reading.joules is None]
        return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}

    @property
    def figures(self) -> dict[str, float]:
        """Those of FIGURES that could be had."""
        record = self.record()
        return {name: record[name] for name in FIGURES if record[name] is not None}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of the figures that are means over runs, 95%; none of one run."""
        means = {"joules_per_token": self.joules_per_token, "net_joules_per_token": self.net_joules_per_token}
        return {name: each.ci95 for name, each in means.items() if each and each.ci95}

    @property
    def why_not(self) -> str:
        """Why figures are missing: the runs' problems, or the idle machine's."""
        return "; ".join(self.problems) or self.idle.problem

    def record(self) -> dict[str, Any]:
        """All of it for a results file: figures (None where they could not be had), their source, and each run."""
        per_token, net = self.joules_per_token, self.net_joules_per_token
        return {
            "source": self.idle.source,
            "kind": self.idle.kind,
            "sample_rate_hz": self.idle.sample_rate_hz,
            "idle_watts": self.idle.watts,
            "active_watts": self.active_watts,
            "joules_per_token": per_token and per_token.mean,
            "joules_per_token_ci95": per_token and per_token.ci95,
            "net_joules_per_token": net and net.mean,
            "net_joules_per_token_ci95": net and net.ci95,
            "rounds": len(self.runs),
            "rounds_read": len(self._read()),
            "problems": self.problems,
            "idle": asdict(self.idle),
            "runs": [asdict(run) for run in self.runs],
        }

    def _read(self) -> list[tuple[EnergyRun, float]]:
        return [(run, run.reading.joules) for run in self.runs if run.reading.joules is not None]


@dataclass(frozen=True)
class Timetable:
    """When the machine was idle and when it ran, by one clock: seconds since 1970, unless another was given.

    It waits in a results file, as `dataclasses.asdict` gives it, until the log is there.
    """

    idle_before: Stretch
    runs: tuple[tuple[Stretch, int], ...]
    """Each with the tokens that it made."""
    idle_after: Stretch

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Timetable:
        """Back from a results file, which anyone may have written; InvalidRequestError."""
        try:
            runs = tuple((Stretch(**stretch), int(tokens)) for stretch, tokens in record["runs"])
            timetable = cls(Stretch(**record["idle_before"]), runs, Stretch(**record["idle_after"]))
            times = [float(at) for stretch in timetable.stretches for at in (stretch.start_s, stretch.end_s)]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidRequestError(f"this is no timetable with idle_before, runs and idle_after: {error!r}") from error
        in_order = all(before <= after for before, after in pairwise(times)) and all(each.start_s < each.end_s for each in timetable.busy)
        if not in_order or not math.isfinite(times[-1] - times[0]) or any(tokens < 1 for _, tokens in runs) or not runs:
            raise InvalidRequestError("this is no timetable: it needs runs, each with tokens, and times in order")
        return timetable

    @property
    def observed(self) -> Stretch:
        """All of it."""
        return Stretch(self.idle_before.start_s, self.idle_after.end_s)

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """In order of time."""
        return self.idle_before, *self.busy, self.idle_after

    @property
    def busy(self) -> tuple[Stretch, ...]:
        """The runs alone."""
        return tuple(stretch for stretch, _ in self.runs)


def measure_runs(
    meter: EnergyMeter, run: Run, rounds: int = ROUNDS, idle_seconds: float = IDLE_SECONDS, sleep: Sleep = time.sleep
) -> EnergyRuns:
    """One run to warm up, the idle machine, then the runs; the meter is open. InvalidRequestError: a run made no token."""
    _check(rounds, idle_seconds)
    _tokens(run)
    idle = meter.measure(lambda: sleep(idle_seconds))
    return EnergyRuns(idle, tuple(each_run(meter, run, rounds)))


def each_run(meter: EnergyMeter, run: Run, rounds: int) -> Iterator[EnergyRun]:
    """The runs one by one, for a caller who keeps them as they come."""
    for _ in range(rounds):
        made: list[int] = []
        reading = meter.measure(lambda made=made: made.append(_tokens(run)))  # type: ignore[misc]
        yield EnergyRun(reading, *made)


def timed_runs(
    run: Run, rounds: int = ROUNDS, idle_seconds: float = IDLE_SECONDS, sleep: Sleep = time.sleep, clock: Clock = time.time
) -> Timetable:
    """As `measure_runs`, but only note when everything was; idle once more at the end, so that the load has two edges."""
    _check(rounds, idle_seconds)
    _tokens(run)
    idle_before, _ = _timed(lambda: sleep(idle_seconds), clock)
    runs = tuple(_timed(lambda: _tokens(run), clock) for _ in range(rounds))
    idle_after, _ = _timed(lambda: sleep(idle_seconds), clock)
    return Timetable(idle_before, runs, idle_after)


def runs_from_log(log: MeterLog, timetable: Timetable, alignment: Alignment) -> EnergyRuns:
    """What a power meter's log says of the timetable; see `alignment.align` for where the alignment comes from."""
    runs = tuple(EnergyRun(read_stretch(log, alignment, stretch), tokens) for stretch, tokens in timetable.runs)
    return EnergyRuns(read_stretch(log, alignment, timetable.idle_before), runs)


def mean(values: Sequence[float]) -> Mean | None:
    """With its interval; None of nothing."""
    if not values:
        return None
    if len(values) == 1:
        return Mean(values[0], None, 1)
    try:
        from scipy import stats
    except ImportError as error:
        raise InvalidRequestError("the interval of a mean needs scipy: pip install scipy") from error
    center, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5
    return Mean(center, (center - half, center + half), len(values))


def _timed(call: Callable[[], T], clock: Clock) -> tuple[Stretch, T]:
    start_s = clock()
    result = call()
    return Stretch(start_s, clock()), result


def _tokens(run: Run) -> int:
    tokens = run()
    if tokens < 1:
        raise InvalidRequestError(f"a run made {tokens} tokens; energy per token needs at least one")
    return tokens


def _check(rounds: int, idle_seconds: float) -> None:
    if rounds < 1 or not idle_seconds > 0:
        raise InvalidRequestError(f"at least 1 round and some idle time are needed; asked were {rounds} rounds and {idle_seconds} s")
