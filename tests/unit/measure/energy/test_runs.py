from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure.energy.alignment import Alignment, Stretch, align
from edgellm.measure.energy.meter import EnergyMeter
from edgellm.measure.energy.provider import EnergyReading, Kind, PowerSample
from edgellm.measure.energy.runs import (
    ROUNDS,
    EnergyRun,
    EnergyRuns,
    Mean,
    Timetable,
    each_run,
    mean,
    measure_runs,
    runs_from_log,
    timed_runs,
)
from edgellm.measure.energy.usb_meter import MeterLog


class Machine:
    """2 W idle, more while it runs; its time passes only when something is done. It is its own counter."""

    name, source, sample_rate_hz = "machine", "a test", None
    kind: Kind = "measured"
    shortest_window_s, longest_window_s = 0.0, 1e9

    def __init__(self) -> None:
        self.now_s, self._joules = 1000.0, 0.0
        self.changes: list[tuple[float, float]] = []

    def clock(self) -> float:
        return self.now_s

    def read(self) -> tuple[int, ...]:
        return (round(self._joules * 1e6),)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        return (after[0] - before[0]) / 1e6

    def spend(self, seconds: float, watts: float = 2.0) -> None:
        self.changes.append((self.now_s, watts))
        self.now_s += seconds
        self._joules += seconds * watts

    def run(self, seconds: float = 4.0, watts: float = 7.0, tokens: int = 8) -> int:
        self.spend(seconds, watts)
        return tokens


def measured(run: Callable[[Machine], int], rounds: int = 3) -> EnergyRuns:
    machine = Machine()
    with EnergyMeter(machine, machine.clock) as meter:
        return measure_runs(meter, lambda: run(machine), rounds, 10, machine.spend)


def test_gross_and_net_energy_per_token() -> None:
    result = measured(Machine.run)
    assert result.idle.watts == pytest.approx(2)
    assert result.active_watts == pytest.approx(7)
    assert result.joules_per_token == Mean(3.5, (3.5, 3.5), 3)
    assert result.net_joules_per_token == Mean(2.5, (2.5, 2.5), 3)


def test_the_first_run_warms_up() -> None:
    watts = iter([100.0, 7.0, 7.0])
    result = measured(lambda machine: machine.run(watts=next(watts)), rounds=2)
    assert [run.reading.watts for run in result.runs] == pytest.approx([7, 7])


def test_students_interval() -> None:
    """scipy.stats.t.interval(0.95, 3, 2.5, sem) for 1, 2, 3, 4."""
    center = mean([1.0, 2.0, 3.0, 4.0])
    assert center is not None
    assert center.ci95 == pytest.approx((0.4457397, 4.5542603))
    assert mean([1.5]) == Mean(1.5, None, 1)
    assert mean([]) is None


def test_an_interval_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(InvalidRequestError, match="pip install scipy"):
        mean([1.0, 2.0])


def reading(joules: float | None, seconds: float = 1.0, problem: str = "") -> EnergyReading:
    watts = None if joules is None else joules / seconds
    return EnergyReading(joules, seconds, watts, "a test", "estimated", 10.0, 11, problem=problem)


def test_runs_that_could_not_be_read_are_left_out_and_counted() -> None:
    runs = [EnergyRun(reading(6.0), 2), EnergyRun(reading(None, problem="too short"), 2), EnergyRun(reading(8.0), 2)]
    record = EnergyRuns(reading(2.0), (*runs, runs[1])).record()
    assert (record["joules_per_token"], record["net_joules_per_token"], record["active_watts"]) == (3.5, 2.5, 7)
    assert (record["rounds"], record["rounds_read"], record["problems"]) == (4, 2, {"too short": 2})


def test_nothing_read_is_nothing_said() -> None:
    unread = reading(None, problem="too short")
    record = EnergyRuns(unread, (EnergyRun(unread, 2),)).record()
    for figure in ("joules_per_token", "joules_per_token_ci95", "net_joules_per_token", "idle_watts", "active_watts"):
        assert record[figure] is None
    idle_unknown = EnergyRuns(unread, (EnergyRun(reading(6.0), 2),))
    assert idle_unknown.joules_per_token == Mean(3.0, None, 1)
    assert idle_unknown.net_joules_per_token is None


def test_a_record_is_json_and_says_where_it_is_from() -> None:
    record = json.loads(json.dumps(measured(Machine.run).record(), allow_nan=False))
    assert (record["source"], record["kind"], record["sample_rate_hz"]) == ("a test", "measured", None)
    assert record["runs"][0]["tokens"] == 8
    assert record["runs"][0]["reading"]["joules"] == pytest.approx(28)


def test_runs_can_be_kept_as_they_come() -> None:
    machine, kept = Machine(), list[EnergyRun]()
    with EnergyMeter(machine, machine.clock) as meter:
        runs = each_run(meter, lambda: machine.run() if len(kept) < 2 else interrupt(), ROUNDS)
        with pytest.raises(KeyboardInterrupt):
            kept.extend(runs)  # what came before stays
    assert [run.tokens for run in kept] == [8, 8]


def interrupt() -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("rounds", "idle_seconds"), [(0, 1), (1, 0), (1, float("nan"))])
def test_what_cannot_be_asked_for(rounds: int, idle_seconds: float) -> None:
    machine = Machine()
    with EnergyMeter(machine, machine.clock) as meter, pytest.raises(InvalidRequestError, match="at least 1 round and some idle time"):
        measure_runs(meter, machine.run, rounds, idle_seconds, machine.spend)


def test_a_run_without_tokens() -> None:
    with pytest.raises(InvalidRequestError, match="a run made 0 tokens"):
        measured(lambda machine: machine.run(tokens=0))


def test_the_same_from_a_log_that_came_later() -> None:
    """A power meter whose clock is 990 s behind saw what the machine did."""
    machine = Machine()
    timetable = Timetable.of_record(json.loads(json.dumps(asdict(timed_runs(machine.run, 5, 6, machine.spend, machine.clock)))))
    assert timetable.observed == Stretch(1004, 1036)
    times = np.arange(1000, machine.now_s + 8, 0.1)
    changes = [*machine.changes, (machine.now_s, 2.0)]
    watts = [next(value for begin, value in reversed(changes) if begin <= at + 1e-9) for at in times]
    log = MeterLog(Path("log.csv"), tuple(map(PowerSample, (times - 990).tolist(), watts)), absolute=False, unreadable=0)
    alignment = align(log, timetable.observed, timetable.busy)
    assert alignment.offset_s == pytest.approx(-990, abs=alignment.uncertainty_s)
    result = runs_from_log(log, timetable, alignment)
    assert result.joules_per_token is not None
    assert result.joules_per_token.mean == pytest.approx(3.5, rel=0.02)
    assert result.idle.watts == pytest.approx(2, rel=0.03)
    assert runs_from_log(log, timetable, Alignment(-990, 0.1)).runs[2].reading.joules == pytest.approx(28, rel=0.02)


@pytest.mark.parametrize("record", [{}, {"runs": [], "idle_before": {}, "idle_after": {}}, {"runs": [[1, 2]]}, {"runs": 3}])
def test_what_is_no_timetable(record: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="this is no timetable"):
        Timetable.of_record(record)
