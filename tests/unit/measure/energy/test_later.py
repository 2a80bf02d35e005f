"""A run that kept its timetable, a power meter's log made up after the documented formats, and `edgellm energy` between them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellm.cli import main
from edgellm.measure.energy.later import TIMETABLE
from edgellm.measure.energy.runs import Timetable, timed_runs
from tests.unit.measure.energy.test_runs import Machine

BEGIN_S = 1_770_000_000.0
AHEAD_S = 12.34
"""Of the meter's clock."""
FINGERPRINT = {"cpu_model": "Cortex-A76", "cpu_count": 4, "system": "Linux", "git_commit": "cafe" * 10}
BACKEND = {"name": "edgellm", "threads": 4, "model_filename": "model.tmac2.bin"}
FNIRSI_HEAD = "timestamp sample_in_packet voltage_V current_A dp_V dn_V temp_C_ema energy_Ws capacity_As"


class MeteredMachine(Machine):
    """2 W idle, 7 W while it answers: 3.5 J/token, 2.5 net."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = BEGIN_S

    def watts(self, at_s: float) -> float:
        return next((watts for begin, watts in reversed(self.changes) if begin <= at_s), 2.0)

    def log(self, rate_hz: float = 20, *, ahead_s: float = AHEAD_S, before_s: float = 5.0) -> str:
        """What fnirsi-usb-power-data-logger would write, from before the run until after it."""
        self.spend(5)
        samples = range(int((self.now_s - BEGIN_S + before_s) * rate_hz))
        times = [BEGIN_S - before_s + index / rate_hz for index in samples]
        lines = [f"{at + ahead_s:.3f} 0 5.00000 {self.watts(at) / 5:.5f} 1.184 1.031 30.500 0.0 0.0" for at in times]
        return "\n".join([FNIRSI_HEAD, *lines]) + "\n"


def timed_test(timetable: Timetable, test: str = "test_energy", **changes: Any) -> dict[str, Any]:
    extra = {"schema": "edgellm-latency", "version": 2, "test": test, "backend": BACKEND, TIMETABLE: asdict(timetable), **changes}
    return {"name": test, "fullname": f"tests/perf/test_energy.py::{test}", "extra_info": extra}


def document(*benchmarks: object) -> dict[str, Any]:
    return {"datetime": "2026-02-02T02:40:00+00:00", "fingerprint": FINGERPRINT, "benchmarks": list(benchmarks)}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MeteredMachine:
    """latency.json and meter.csv of five runs, in the working folder."""
    monkeypatch.chdir(tmp_path)
    machine = MeteredMachine()
    timetable = timed_runs(machine.run, 5, 6, machine.spend, machine.clock)
    Path("latency.json").write_text(json.dumps(document({"extra_info": {}}, timed_test(timetable))))
    Path("meter.csv").write_text(machine.log())
    return machine


def read(*arguments: str, log: str = "meter.csv", of: str = "latency.json") -> Result:
    return CliRunner().invoke(main, ["energy", "--log", log, "--of", of, *arguments])


@pytest.mark.usefixtures("measured")
def test_what_is_printed() -> None:
    lines = dict(line.split(maxsplit=1) for line in read().stdout.splitlines()[1:])
    assert float(lines["joules_per_token"].split()[0]) == pytest.approx(3.5, rel=0.02)
    assert "(95%: 3." in lines["joules_per_token"]
    assert float(lines["net_joules_per_token"].split()[0]) == pytest.approx(2.5, rel=0.02)
    assert float(lines["idle_watts"]) == pytest.approx(2, rel=0.02)
    assert float(lines["active_watts"]) == pytest.approx(7, rel=0.02)
    assert lines["rounds"] == "5, of which 5 could be read"
    assert lines["source"].startswith("measured, 20 Hz: USB power meter, log meter.csv (")
    assert "found by load edges, r = " in lines["alignment"]


@pytest.mark.usefixtures("measured")
def test_the_record() -> None:
    record = json.loads(read("--json").stdout)
    assert record["backend"] == BACKEND
    assert (record["of"], record["datetime"]) == ("latency.json", "2026-02-02T02:40:00+00:00")
    found = record["alignment"]
    assert found["offset_s"] == pytest.approx(AHEAD_S, abs=found["uncertainty_s"] + 1e-3)  # times have three decimals
    assert record["figures"]["joules_per_token"] == record["energy"]["joules_per_token"]
    low, high = record["intervals"]["net_joules_per_token"]
    assert low < record["figures"]["net_joules_per_token"] < high
    assert len(record["energy"]["runs"]) == 5


@pytest.mark.usefixtures("measured")
def test_the_report_takes_the_figures_from_the_results() -> None:
    assert read("-o", "energy.json").stderr == "written: energy.json\n"
    results = json.loads(Path("energy.json").read_text())
    assert (results["kind"], results["provenance"], results["fingerprint"]) == ("energy", "measured", FINGERPRINT)
    report = json.loads(CliRunner().invoke(main, ["report", "energy.json", "--json"]).stdout)
    (row,) = report["rows"]
    assert (row["test"], row["rounds"], row["provenance"], row["subject"]["threads"]) == ("test_energy", 5, "measured", 4)
    assert row["figures"]["joules_per_token"] == pytest.approx(3.5, rel=0.02)
    shown = CliRunner().invoke(main, ["report", "latency.json", "energy.json"]).stdout
    assert "J/token" in shown
    assert "energy is measured by USB power meter, log meter.csv" in shown


@pytest.mark.parametrize(("offset", "within"), [("12.34", ()), ("12.3", ("--within", "0.1"))])
@pytest.mark.usefixtures("measured")
def test_an_offset_that_is_given(offset: str, within: tuple[str, ...]) -> None:
    record = json.loads(read("--offset", offset, *within, "--json").stdout)
    uncertainty_s = 0.1 if within else 0.05  # the log's period
    assert record["alignment"] == {
        "offset_s": float(offset),
        "uncertainty_s": pytest.approx(uncertainty_s, rel=1e-3),
        "correlation": None,
    }
    assert record["figures"]["joules_per_token"] == pytest.approx(3.5, rel=0.02)


def test_a_log_of_the_meters_own_program_knows_no_clock(measured: MeteredMachine) -> None:
    """Times from its own beginning, decimal commas, and a sample of noughts when the meter was plugged in."""
    times = [index / 20 for index in range(int((measured.now_s - BEGIN_S) * 20))]
    rows = [f"{at:.2f};5,000;{measured.watts(BEGIN_S + at) / 5:.4f}".replace(".", ",") for at in times]
    Path("export.csv").write_text("\n".join(["Time(s);Voltage(V);Current(A)", "0,00;0,000;0,0000", *rows]) + "\n")
    record = json.loads(read("--json", log="export.csv").stdout)
    assert record["alignment"]["offset_s"] == pytest.approx(-BEGIN_S, abs=record["alignment"]["uncertainty_s"])
    assert record["figures"]["net_joules_per_token"] == pytest.approx(2.5, rel=0.02)


def test_rounds_that_the_log_missed_are_counted(measured: MeteredMachine) -> None:
    lines = Path("meter.csv").read_text().splitlines()
    first_run_s = measured.changes[2][0] + AHEAD_S
    kept = [line for line in lines[1:] if not first_run_s < float(line.split()[0]) < first_run_s + 2]
    Path("meter.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    printed = read().stdout
    assert "5, of which 4 could be read" in printed
    assert "1 not: samples are missing for 2" in printed


def test_several_timetables_are_chosen_from_by_name(measured: MeteredMachine) -> None:
    timetable = timed_runs(measured.run, 2, 6, measured.spend, measured.clock)
    tests = [json.loads(Path("latency.json").read_text())["benchmarks"][1], timed_test(timetable, "test_mine", backend=None)]
    Path("latency.json").write_text(json.dumps(document(*tests)))
    Path("meter.csv").write_text(measured.log())
    assert refused() == (
        "latency.json: 2 tests left a timetable (tests/perf/test_energy.py::test_energy, edgellm, 4 threads; "
        "tests/perf/test_energy.py::test_mine); choose one of them with --test NAME"
    )
    assert "the names of 0 end in 'test_yours'" in refused("--test", "test_yours")
    record = json.loads(read("--test", "test_mine", "--json").stdout)
    assert (record["test"], record["energy"]["rounds"], record["backend"]) == ("test_mine", 2, {})


def refused(*arguments: str, log: str = "meter.csv", of: str = "latency.json") -> str:
    result = read(*arguments, log=log, of=of)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--offset", "1000"), "it covers 1770000007.34 to 1770000053.29 s by its clock"),
        (("--offset", "nan"), "an offset of nan s, wrong by up to 0.05 s, is none"),
        (("--offset", "1e308"), "it covers 1770000007.34 to 1770000053.29 s by its clock"),
        (("--offset", "12.34", "--within", "-1"), "wrong by up to -1 s, is none"),
        (("--offset", "12.34", "--within", "1"), "none of 5 rounds can be read: 4 s are too short for an alignment to ±1 s"),
        (("--within", "1"), "is for one that is given"),
        (("-o", "latency.json"), "would replace what is read"),
        (("-o", "./meter.csv"), "would replace what is read"),
    ],
)
@pytest.mark.usefixtures("measured")
def test_what_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    assert problem in refused(*arguments)


@pytest.mark.parametrize("arguments", [("--log", "meter.csv"), ("--of", "latency.json"), ("--offset", "0"), ("-o", "energy.json")])
def test_half_of_what_is_needed(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, ["energy", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is read with both --log CSV and --of FILE" in result.stderr


def test_logs_that_do_not_show_the_run(measured: MeteredMachine) -> None:
    lines = Path("meter.csv").read_text().splitlines()
    Path("short.csv").write_text("\n".join(lines[:400]) + "\n")
    assert "s of log for a run of 32 s; let the meter record before the run, until after it" in refused(log="short.csv")
    Path("twice.csv").write_text(Path("meter.csv").read_text() + MeteredMachine.log(measured, ahead_s=AHEAD_S + 100))
    assert "the run fits about as well 100.0 s away; give the offset (--offset SECONDS)" in refused(log="twice.csv")
    idle = [f"{line.split()[0]} 0 5.0 {0.4 + 0.001 * (index % 7)}" for index, line in enumerate(lines[1:])]
    Path("idle.csv").write_text("\n".join(["timestamp sample voltage_V current_A", *idle]) + "\n")
    assert "nothing in it looks like the run" in refused(log="idle.csv")
    assert "cannot read the power meter's log none.csv" in refused(log="none.csv")


TIMETABLES: dict[str, tuple[object, str]] = {
    "no object": ([], "this is no timetable"),
    "texts": ({"idle_before": {"start_s": "a", "end_s": "b"}, "runs": [], "idle_after": {"start_s": 1, "end_s": 2}}, "no timetable"),
    "no runs": ({"idle_before": {"start_s": 0, "end_s": 1}, "runs": [], "idle_after": {"start_s": 1, "end_s": 2}}, "needs runs"),
    "no tokens": ({"runs": [[{"start_s": 1, "end_s": 2}, 0]]}, "each with tokens"),
    "backwards": ({"runs": [[{"start_s": 2, "end_s": 1}, 8]]}, "times in order"),
    "no time": ({"runs": [[{"start_s": 1, "end_s": 1}, 8]]}, "times in order"),
    "infinity": ({"idle_after": {"start_s": 3, "end_s": math.inf}}, "Infinity, which is no JSON number"),
    "digits": ({"idle_after": {"start_s": 3, "end_s": 10**400}}, "this is no timetable"),
    "eons": ({"idle_after": {"start_s": 3, "end_s": 1e15}}, "s of log for a run of 1e+15 s"),
}
SOUND: dict[str, object] = {
    "idle_before": {"start_s": 0, "end_s": 1},
    "runs": [[{"start_s": 1, "end_s": 2}, 8]],
    "idle_after": {"start_s": 3, "end_s": 4},
}


@pytest.mark.parametrize(("timetable", "problem"), TIMETABLES.values(), ids=TIMETABLES)
@pytest.mark.usefixtures("measured")
def test_hostile_timetables(timetable: object, problem: str) -> None:
    hostile = SOUND | timetable if isinstance(timetable, dict) else timetable
    Path("latency.json").write_text(json.dumps(document({"extra_info": {TIMETABLE: hostile}})))
    assert problem in refused()


@pytest.mark.parametrize("content", ["{}", "[]", '{"benchmarks": 3}', '{"benchmarks": [3, {"extra_info": []}, {}]}'])
@pytest.mark.usefixtures("measured")
def test_results_without_a_timetable(content: str) -> None:
    Path("latency.json").write_text(content)
    assert "no test in it left a timetable; one does with: nox -s perf -- --energy later -k energy" in refused()


@pytest.mark.usefixtures("measured")
def test_results_cut_off() -> None:
    Path("latency.json").write_text(Path("latency.json").read_text()[:300])
    assert "cannot read the results file latency.json" in refused()
