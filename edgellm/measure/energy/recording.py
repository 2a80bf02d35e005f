"""Joules per token in the record of a test: read by a meter while it runs, or timed for a power meter whose log comes later.

With a log that comes later, the record keeps the timetable, and every figure says with which command the log is read.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from edgellm.measure.energy.later import TIMETABLE, how_to_read
from edgellm.measure.energy.meter import EnergyMeter
from edgellm.measure.energy.runs import FIGURES, IDLE_SECONDS, ROUNDS, Run, measure_runs, timed_runs
from edgellm.measure.recorder import LatencyRecorder


def record_runs(recorder: LatencyRecorder, meter: EnergyMeter, run: Run, rounds: int = ROUNDS, idle_seconds: float = IDLE_SECONDS) -> None:
    """`runs.measure_runs`, its record and its figures; of a figure that could not be had, why. Raises what the meter and the run raise."""
    asked = recorder.rounds.of(rounds)
    (runs,) = recorder.time("energy", lambda: measure_runs(meter, run, asked, idle_seconds), rounds=1)
    recorder.note(energy=runs.record())
    recorder.add(**runs.figures)
    for figure in FIGURES:
        if figure not in runs.figures:
            recorder.cannot(figure, runs.why_not)


def record_timetable(recorder: LatencyRecorder, results: Path, run: Run, rounds: int = ROUNDS, idle_seconds: float = IDLE_SECONDS) -> None:
    """`runs.timed_runs`; `results` is the file that will hold the record. Raises what the run raises."""
    asked = recorder.rounds.of(rounds)
    (timetable,) = recorder.time("energy", lambda: timed_runs(run, asked, idle_seconds), rounds=1)
    recorder.note(**{TIMETABLE: asdict(timetable)})
    for figure in FIGURES:
        recorder.cannot(figure, how_to_read(results))
