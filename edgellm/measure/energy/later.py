"""A power meter's log that came after the run, and the timetable that the run left: joules per token.

The timetable stands in the results file of the run (pytest-benchmark's JSON), in the `extra_info` of the test that was timed; see
`recording.record_timetable`. What comes of both is a record of a results file (`edgellm.measure.results`) of the kind "energy", with the
fingerprint of the run's file, since the log may be read on another machine:

    {
      "test":      the one that was timed
      "backend":   {name, threads, ...}, as the test noted it
      "of":        the results file with the timetable
      "datetime":  when that was written
      "alignment": {"offset_s": the log's time minus the run's, "uncertainty_s": ..., "correlation": r, or null where the offset was given}
      "figures":   {"joules_per_token": ..., "net_joules_per_token": ..., "idle_watts": ..., "active_watts": ...}, those that could be had
      "intervals": {"joules_per_token": [low, high], "net_joules_per_token": [low, high]}: 95%, of the mean over rounds
      "energy":    `runs.EnergyRuns.record`: source, kind, sampling rate, the idle machine, and each run with its problem, if it has one
    }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import InvalidRequestError
from edgellm.measure.energy.alignment import Alignment, align
from edgellm.measure.energy.detect import LATER
from edgellm.measure.energy.runs import EnergyRuns, Timetable, runs_from_log
from edgellm.measure.energy.usb_meter import MeterLog, MeterLogError
from edgellm.measure.results import read_json

KIND = "energy"
"""Of a results file with such records."""
TIMETABLE = "timetable"
"""Its key in a test's `extra_info`."""


def how_to_read(results: Path) -> str:
    """What stands where the figures will."""
    return f"the meter's log is still to come: edgellm energy --log METER.csv --of {results}"


@dataclass(frozen=True)
class TimedTest:
    """A test that left a timetable, in the results file `of`, and what else of that file belongs to its figures.

    address: the test's name with its file's before it, as pytest has it
    """

    of: Path
    test: str
    address: str
    backend: Mapping[str, Any]
    timetable: Timetable
    datetime: str
    fingerprint: dict[str, Any]

    def __str__(self) -> str:
        engine, threads = self.backend.get("name"), self.backend.get("threads")
        return ", ".join(filter(None, (self.address, engine and str(engine), threads and f"{threads} threads")))


def read_timed_test(path: Path, test: str | None = None) -> TimedTest:
    """The test of a results file that left a timetable; where several did, the one whose address ends in `test`.

    ResultsError: no file that can be read. InvalidRequestError: no such test, or more than one; or its timetable is none.
    """
    document = read_json(path)
    benchmarks = document.get("benchmarks") if isinstance(document, dict) else None
    timed = [_timed(path, document, each) for each in benchmarks if _is_timed(each)] if isinstance(benchmarks, list) else []
    if not timed:
        raise InvalidRequestError(f"{path}: no test in it left a timetable; one does with: nox -s perf -- --energy {LATER} -k energy")
    chosen = [each for each in timed if each.address.endswith(test or "")]
    if len(chosen) != 1:
        found = "; ".join(map(str, timed))
        asked = "choose one of them with --test NAME" if test is None else f"the names of {len(chosen)} end in {test!r}"
        raise InvalidRequestError(f"{path}: {len(timed)} tests left a timetable ({found}); {asked}")
    return chosen[0]


def locate(log: MeterLog, timetable: Timetable, offset_s: float | None = None, uncertainty_s: float | None = None) -> Alignment:
    """When the run was, by the log's clock: as it is given, or by its load's edges.

    offset_s:      the log's time minus the run's; 0 where both are of the same clock
    uncertainty_s: how far that may be wrong; the log's period, unless it is given

    MeterLogError: see `alignment.align`; or nothing of the run is in the log, by this offset.
    """
    if offset_s is None:
        if uncertainty_s is not None:
            raise InvalidRequestError("how far an offset may be wrong is for one that is given; one that is found says it itself")
        return align(log, timetable.observed, timetable.busy)
    given = Alignment(offset_s, log.period_s if uncertainty_s is None else uncertainty_s)
    if not (math.isfinite(given.offset_s) and math.isfinite(given.uncertainty_s) and given.uncertainty_s >= 0):
        raise InvalidRequestError(f"an offset of {given.offset_s:g} s, wrong by up to {given.uncertainty_s:.3g} s, is none")
    begin_s, end_s = timetable.observed.start_s + offset_s, timetable.observed.end_s + offset_s
    first_s, last_s = log.samples[0].at_s, log.samples[-1].at_s
    if end_s <= first_s or begin_s >= last_s:
        raise MeterLogError(
            f"{log.path}: it covers {first_s:.12g} to {last_s:.12g} s by its clock; the run, by this offset, was from {begin_s:.12g} "
            f"to {end_s:.12g} s: give another offset, or none to have it found"
        )
    return given


def read_runs(log: MeterLog, timed: TimedTest, alignment: Alignment) -> EnergyRuns:
    """What the log says of the test. MeterLogError: of no round anything."""
    runs = runs_from_log(log, timed.timetable, alignment)
    if "joules_per_token" not in runs.figures:
        raise MeterLogError(f"{log.path}: none of {len(runs.runs)} rounds can be read: {runs.why_not}")
    return runs


def record(timed: TimedTest, alignment: Alignment, runs: EnergyRuns) -> dict[str, Any]:
    """For a results file, as the module's docstring has it."""
    return {
        "test": timed.test,
        "backend": dict(timed.backend),
        "of": str(timed.of),
        "datetime": timed.datetime,
        "alignment": asdict(alignment),
        "figures": runs.figures,
        "intervals": runs.intervals,
        "energy": runs.record(),
    }


def _is_timed(benchmark: object) -> bool:
    return isinstance(benchmark, dict) and isinstance(extra := benchmark.get("extra_info"), dict) and TIMETABLE in extra


def _timed(path: Path, document: Mapping[str, Any], benchmark: Mapping[str, Any]) -> TimedTest:
    extra = benchmark["extra_info"]
    backend, fingerprint, written = extra.get("backend"), document.get("fingerprint"), document.get("datetime")
    try:
        timetable = Timetable.of_record(extra[TIMETABLE])
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{path}: {error}") from error
    return TimedTest(
        of=path,
        test=str(extra.get("test", "")),
        address=str(benchmark.get("fullname") or extra.get("test", "")),
        backend=backend if isinstance(backend, dict) else {},
        timetable=timetable,
        datetime=written if isinstance(written, str) else "",
        fingerprint=fingerprint if isinstance(fingerprint, dict) else {},
    )
