"""What a source of energy readings must offer, in one of two shapes: a counter of joules, or samples of watts.

Every provider says where its numbers come from (`source`, in words) and how they come about (`kind`): "measured" by an instrument, or
"estimated" by a model of one. What is outside of its reach it says in `source` too: a processor's counter knows no power supply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from edgellm.errors import EdgeLLMError

Kind = Literal["measured", "estimated"]

Clock = Callable[[], float]
"""Seconds that only go forward, from any beginning: `time.perf_counter`, unless a test has its own."""


class EnergyUnavailableError(EdgeLLMError):
    """Energy cannot be read; the message says from where, why, and what can be done."""


@dataclass(frozen=True)
class PowerSample:
    """Watts at a moment of the clock."""

    at_s: float
    watts: float


@dataclass(frozen=True)
class MissedSample:
    """A moment at which a sample should have been, and why there is none."""

    at_s: float
    reason: str


@dataclass(frozen=True)
class Gap:
    """Seconds of a window without samples, and where in the window they begin."""

    start_s: float
    seconds: float


@dataclass(frozen=True)
class EnergyReading:
    """The energy of one window of time.

    joules, watts:  None where they could not be had, and then `problem` says why
    seconds:        the window's length
    source, kind, sample_rate_hz: the provider's
    samples:        inside the window; of a counter, the two readings around it
    gaps:           longer than samples should lie apart; the energy across them is interpolated
    """

    joules: float | None
    seconds: float
    watts: float | None
    source: str
    kind: Kind
    sample_rate_hz: float | None
    samples: int
    gaps: tuple[Gap, ...] = ()
    problem: str = ""


class EnergyProvider(Protocol):
    """What both shapes say of themselves.

    name:   as it is asked for: "rapl", "pmic", ...
    source: where the numbers come from, what they cover and what not
    kind:   see the module's docstring
    """

    name: str
    source: str
    kind: Kind


@runtime_checkable
class CounterProvider(EnergyProvider, Protocol):
    """Counts joules.

    shortest_window_s: below it, the steps in which the counter moves are too coarse for what is between
    longest_window_s:  beyond it, a counter may have come round once more than can be seen
    """

    sample_rate_hz: None
    shortest_window_s: float
    longest_window_s: float

    def read(self) -> tuple[int, ...]:
        """The counters now, in microjoules; EnergyUnavailableError."""

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """What was counted between two readings."""


class PowerStream(Protocol):
    """Samples as they come; iterating blocks until the next."""

    def __iter__(self) -> Iterator[PowerSample | MissedSample]: ...

    def close(self) -> None:
        """End the iteration soon; may be called from another thread, and again."""


class PowerProvider(EnergyProvider, Protocol):
    """Samples watts, nominally at `sample_rate_hz`."""

    sample_rate_hz: float

    def stream(self, clock: Clock) -> PowerStream:
        """Begin to sample, with times of this clock; EnergyUnavailableError."""


Provider = CounterProvider | PowerProvider
