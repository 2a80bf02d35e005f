"""Sampling of power beside what is measured: a thread that keeps what a provider's stream gives, and streams that ask at a fixed rate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from edgellm.errors import EdgeLLMError
from edgellm.measure.energy.provider import Clock, EnergyUnavailableError, MissedSample, PowerProvider, PowerSample

PATIENCE_S = 2.0
"""How long the sample after a window is waited for, and a stream that was closed."""


class PolledStream:
    """Watts asked for at a fixed rate. A slot that was slept through is left out, and a question that fails is a missed sample."""

    def __init__(self, watts: Callable[[], float], rate_hz: float, clock: Clock) -> None:
        self._watts, self._period_s, self._clock = watts, 1 / rate_hz, clock
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[PowerSample | MissedSample]:
        due_s = self._clock()
        while not self._closed.wait(max(0.0, due_s - self._clock())):
            yield self._sample()
            due_s += self._period_s * max(1, -((due_s - self._clock()) // self._period_s))  # the next slot that is still to come

    def close(self) -> None:
        """See `PowerStream.close`."""
        self._closed.set()

    def _sample(self) -> PowerSample | MissedSample:
        begin_s = self._clock()
        try:
            watts = self._watts()
        except EnergyUnavailableError as error:
            return MissedSample(begin_s, str(error))
        return PowerSample((begin_s + self._clock()) / 2, watts)  # the answer is of some moment in between


class Sampler:
    """Keeps the samples of a provider's stream, in a thread, from `start` to `stop`."""

    def __init__(self, provider: PowerProvider, clock: Clock) -> None:
        self._provider, self._clock = provider, clock
        self._samples: list[PowerSample] = []
        self._newest_s = -float("inf")
        self._problem = ""
        self._ended = False
        self._news = threading.Condition()

    def start(self) -> None:
        """Begin; EnergyUnavailableError."""
        self._stream = self._provider.stream(self._clock)
        self._thread = threading.Thread(target=self._keep, name=f"energy-{self._provider.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stream.close()
        self._thread.join(PATIENCE_S)

    def window(self, start_s: float, end_s: float) -> tuple[list[PowerSample], str]:
        """The samples of a window and one around it on each side, and what went wrong last, if anything.

        Earlier samples are forgotten. Waits for a sample after the window, for a while.
        """
        with self._news:
            self._news.wait_for(lambda: self._newest_s >= end_s or self._ended, PATIENCE_S)
            self._samples.sort(key=lambda sample: sample.at_s)  # packets of a meter's log overlap in time
            before = [index for index, sample in enumerate(self._samples) if sample.at_s <= start_s]
            del self._samples[: before[-1] if before else 0]
            problem, self._problem = self._problem, ""
            return list(self._samples), problem

    def _keep(self) -> None:
        try:
            for item in self._stream:
                self._take(item)
        except (EdgeLLMError, OSError) as error:
            self._problem = str(error)
        finally:
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _take(self, item: PowerSample | MissedSample) -> None:
        with self._news:
            if isinstance(item, MissedSample):
                self._problem = item.reason
            else:
                self._samples.append(item)
            self._newest_s = max(self._newest_s, item.at_s)
            self._news.notify_all()
