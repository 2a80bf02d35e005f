"""How much energy a call took, whichever shape the provider has:

    with EnergyMeter(provider) as meter:
        reading = meter.measure(lambda: generate("..."))
        print(reading.joules, reading.kind, reading.source)

A provider reports the whole of what it covers, not only this process: the machine has to do nothing else meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from edgellm.errors import InvalidRequestError
from edgellm.measure.energy.integral import read_window
from edgellm.measure.energy.provider import Clock, CounterProvider, EnergyReading, PowerProvider, Provider
from edgellm.measure.energy.sampler import Sampler


class EnergyMeter:
    """Measures calls. Power is sampled as long as the meter is open, so that every window has samples around it."""

    def __init__(self, provider: Provider, clock: Clock = time.perf_counter) -> None:
        self.provider = provider
        self._clock = clock
        self._measure: Callable[[Callable[[], object]], EnergyReading] | None = None
        self._sampler: Sampler | None = None

    def __enter__(self) -> EnergyMeter:
        """Begin to sample; EnergyUnavailableError."""
        provider = self.provider
        if isinstance(provider, CounterProvider):
            self._measure = lambda call: _count(provider, self._clock, call)
        else:
            sampler = self._sampler = Sampler(provider, self._clock)
            sampler.start()
            self._measure = lambda call: _sample(provider, sampler, self._clock, call)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._measure = None
        if self._sampler:
            self._sampler.stop()

    def measure(self, call: Callable[[], object]) -> EnergyReading:
        """The energy from right before the call until right after it; what the call raises goes on its way.

        EnergyUnavailableError: a counter that could be read no longer can. InvalidRequestError: the meter is not open.
        """
        if self._measure is None:
            raise InvalidRequestError("the meter is not open; use it as `with EnergyMeter(provider) as meter:`")
        return self._measure(call)


def _count(provider: CounterProvider, clock: Clock, call: Callable[[], object]) -> EnergyReading:
    before, start_s = provider.read(), clock()
    call()
    seconds, after = clock() - start_s, provider.read()
    joules = provider.joules(before, after)
    problem = _counter_problem(provider, seconds, joules)
    return EnergyReading(
        joules=None if problem else joules,
        seconds=seconds,
        watts=None if problem else joules / seconds,
        source=provider.source,
        kind=provider.kind,
        sample_rate_hz=None,
        samples=2,
        problem=problem,
    )


def _counter_problem(provider: CounterProvider, seconds: float, joules: float) -> str:
    if seconds < provider.shortest_window_s:
        return f"{seconds:.3g} s are too short for a counter that moves in steps; at least {provider.shortest_window_s:g} s are needed"
    if seconds > provider.longest_window_s:
        return f"in {seconds:.0f} s the counter may have come round unseen; at most {provider.longest_window_s:.0f} s can be told"
    return "" if joules > 0 else "the counter did not move: this machine has one only in name"


def _sample(provider: PowerProvider, sampler: Sampler, clock: Clock, call: Callable[[], object]) -> EnergyReading:
    start_s = clock()
    call()
    end_s = clock()
    samples, problem = sampler.window(start_s, end_s)
    return read_window(samples, start_s, end_s, source=provider.source, kind=provider.kind, rate_hz=provider.sample_rate_hz, why=problem)
