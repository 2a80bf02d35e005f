from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure.energy import sampler
from edgellm.measure.energy.meter import EnergyMeter
from edgellm.measure.energy.provider import Clock, EnergyUnavailableError, Kind, MissedSample, PowerSample
from edgellm.measure.energy.sampler import PolledStream


class Counter:
    name, source, sample_rate_hz = "counter", "a test", None
    kind: Kind = "measured"
    shortest_window_s, longest_window_s = 0.05, 100.0

    def __init__(self, *microjoules: int) -> None:
        self._next = iter(microjoules)

    def read(self) -> tuple[int, ...]:
        return (next(self._next),)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        return (after[0] - before[0]) / 1e6


class Scripted:
    """A stream that gives items and then ends, by itself or with an error."""

    name, source, sample_rate_hz = "scripted", "a test", 10.0
    kind: Kind = "estimated"

    def __init__(self, items: Sequence[PowerSample | MissedSample], error: Exception | None = None) -> None:
        self._items, self._error = items, error
        self.closed = False

    def stream(self, clock: Clock) -> Scripted:
        return self

    def __iter__(self) -> Iterator[PowerSample | MissedSample]:
        yield from self._items
        if self._error:
            raise self._error

    def close(self) -> None:
        self.closed = True


def at(*times: float) -> Clock:
    return iter(times).__next__


def test_a_counter() -> None:
    with EnergyMeter(Counter(1_000_000, 4_000_000), at(10, 12)) as meter:
        reading = meter.measure(lambda: None)
    assert (reading.joules, reading.seconds, reading.watts) == (3.0, 2.0, 1.5)
    assert (reading.source, reading.kind, reading.sample_rate_hz, reading.samples, reading.problem) == ("a test", "measured", None, 2, "")


@pytest.mark.parametrize(
    ("end_s", "after", "problem"),
    [(10.01, 2, "too short for a counter"), (111, 2, "may have come round unseen"), (12, 1, "the counter did not move")],
)
def test_a_counter_that_cannot_tell(end_s: float, after: int, problem: str) -> None:
    with EnergyMeter(Counter(1, after), at(10, end_s)) as meter:
        reading = meter.measure(lambda: None)
    assert (reading.joules, reading.watts) == (None, None)
    assert problem in reading.problem


def test_samples_are_integrated_over_the_call() -> None:
    provider = Scripted([PowerSample(index / 10, 4.0) for index in range(60)])
    with EnergyMeter(provider, at(1, 3, 3.5, 5)) as meter:
        first, second = meter.measure(lambda: None), meter.measure(lambda: None)
    assert [first.joules, second.joules] == pytest.approx([8, 6])
    assert (first.kind, first.sample_rate_hz, first.samples, first.gaps) == ("estimated", 10.0, 21, ())
    assert provider.closed


def test_a_stream_that_breaks_off_says_why() -> None:
    provider = Scripted([PowerSample(0.0, 4.0)], EnergyUnavailableError("the cable came off"))
    with EnergyMeter(provider, at(1, 3)) as meter:
        reading = meter.measure(lambda: None)
    assert reading.joules is None
    assert "the cable came off" in reading.problem


def test_missed_samples_say_why_and_are_a_gap() -> None:
    items = [MissedSample(index / 10, "busy") if 15 <= index < 25 else PowerSample(index / 10, 4.0) for index in range(60)]
    with EnergyMeter(Scripted(items), at(1, 3)) as meter:
        reading = meter.measure(lambda: None)
    assert reading.joules is None
    assert reading.problem.endswith("(busy)")
    assert [gap.start_s for gap in reading.gaps] == [pytest.approx(0.4)]


def test_waiting_for_the_sample_after_the_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that hangs does not hang the measurement."""
    monkeypatch.setattr(sampler, "PATIENCE_S", 0.01)
    closed = threading.Event()

    class Hanging(Scripted):
        def __iter__(self) -> Iterator[PowerSample | MissedSample]:
            closed.wait()
            yield from ()

        def close(self) -> None:
            closed.set()

    with EnergyMeter(Hanging([]), at(1, 3)) as meter:
        assert meter.measure(lambda: None).joules is None


def test_an_error_of_the_call_goes_on_its_way_and_sampling_ends() -> None:
    provider = Scripted([])
    with pytest.raises(KeyboardInterrupt), EnergyMeter(provider, at(1, 3)) as meter:
        meter.measure(interrupt)
    assert provider.closed


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_meter_must_be_open() -> None:
    with pytest.raises(InvalidRequestError, match="the meter is not open"):
        EnergyMeter(Counter(1, 2)).measure(lambda: None)


class SteppingClock:
    """Each question takes some of its time; waiting passes the rest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        clock = self

        class Passing(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                clock.now_s += timeout or 0
                return self.is_set()

        monkeypatch.setattr(threading, "Event", Passing)

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteppingClock:
    return SteppingClock(monkeypatch)


def asking(clock: SteppingClock, *answers: tuple[float, float] | str) -> Callable[[], float]:
    """Answers of (seconds that it takes, watts), or why there is none."""
    script = iter(answers)

    def ask() -> float:
        answer = next(script)
        if isinstance(answer, str):
            raise EnergyUnavailableError(answer)
        clock.now_s += answer[0]
        return answer[1]

    return ask


def test_polling_keeps_its_rate_and_leaves_out_what_it_slept_through(clock: SteppingClock) -> None:
    stream = PolledStream(asking(clock, (0.02, 1.0), (0.23, 2.0), "no answer", (0.02, 3.0)), 10, clock)
    items = iter(stream)
    taken = [next(items) for _ in range(4)]
    assert [item.at_s for item in taken] == pytest.approx([0.01, 0.215, 0.4, 0.51])
    assert [item.watts if isinstance(item, PowerSample) else item.reason for item in taken] == [1.0, 2.0, "no answer", 3.0]
    stream.close()
    assert list(items) == []
