"""The gate's verdicts on made-up rounds, and what it says when there is nothing to measure. tests/perf/test_perf_gate.py measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgellm.measure.compare import Rounds
from edgellm.measure.results import read_results
from edgellm.ops import native
from scripts import perf_gate
from scripts.build_process import Build, BuildError
from scripts.perf_gate import LIMITS, ROUNDS, GateError, check_origin, judge, main
from scripts.revisions import Package, RevisionError, Sources
from tests.conftest import ROOT

TOKENS = 150


def rounds(rng: np.random.Generator, slower: float = 1.0, stall_share: float = 0.0) -> Rounds:
    """Of a shared machine: a spread of 3%, a bias of 1.5% that each process has, and bursts that hit every fourth round."""
    level = 2.5e6 * slower * rng.normal(1, 0.015)
    calls = level * rng.lognormal(0, 0.03, (ROUNDS, TOKENS)) + 5e6 * (rng.random((ROUNDS, TOKENS)) < stall_share)
    bursts = (rng.random((ROUNDS, 1)) < 1 / 4) & (rng.random((ROUNDS, TOKENS)) < rng.random((ROUNDS, 1)) / 5)
    found: Rounds = (calls + bursts * rng.exponential(1.5e6, (ROUNDS, TOKENS))).astype(int).tolist()
    return found


def failing(seed: int, **fault: float) -> set[str]:
    rng = np.random.default_rng(seed)
    return {finding.figure for finding in judge(rounds(rng), rounds(rng, **fault), rounds(rng)) if not finding.kept}


@pytest.mark.parametrize("seed", range(20))
def test_a_build_passes_beside_itself_and_faults_fail_where_they_show(seed: int) -> None:
    assert failing(seed) == set()
    assert "p50" in failing(seed, slower=1.15)
    assert "jitter" in failing(seed, stall_share=0.02)


def test_a_figure_fails_only_beyond_what_the_base_differs_from_itself_by() -> None:
    base = [[1000, 1010, 1020]] * 10
    slower = [[int(1.2 * ns) for ns in calls] for calls in base]
    assert {finding.figure: finding.kept for finding in judge(base, slower, base)} == {"p50": False, "p99": True, "jitter": True}
    unsteady = judge(base, slower, slower)[0]
    assert unsteady.kept
    assert unsteady.limit == pytest.approx(1.2, abs=0.01)


def test_rounds_that_give_no_interval_are_no_pass() -> None:
    with pytest.raises(GateError, match="1 rounds give no interval of p50"):
        judge([[1, 2]], [[1, 2]], [[1, 2]])
    with pytest.raises(GateError, match="no interval of jitter"):
        judge([[2, 2]] * 9, [[2, 2]] * 9, [[2, 2]] * 9)


def test_another_package_than_the_build_is_refused(synthetic_model: Path, tmp_path: Path) -> None:
    with Build(ROOT, synthetic_model, threads=1) as build:
        check_origin(build, Package("x", ROOT, "", build.facts["csrc_hash"]))
        with pytest.raises(GateError, match="the kernels of other sources"):
            check_origin(build, Package("x", ROOT, "", "cafe"))
        with pytest.raises(GateError, match="which is not its build"):
            check_origin(build, Package("x", tmp_path, "", build.facts["csrc_hash"]))


def test_a_process_that_ends_is_an_error(synthetic_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Build(ROOT, synthetic_model, threads=1) as build, pytest.raises(BuildError, match="ended with 1"):
        build.run("nonsense")
    with pytest.raises(BuildError, match="ended with 1"):
        Build(ROOT, tmp_path / "nosuch", threads=1)
    assert "nonsense" in capfd.readouterr().err


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """This checkout as both revisions, that differ unless a test says otherwise; what there is to say about them."""
    said: dict[str, Any] = {"measured": iter("ab")}

    class Here(Sources):
        @property
        def measured(self) -> str:
            return str(next(said["measured"]))

        def package(self) -> Package:
            return Package(self.revision, ROOT, "", native.csrc_hash())

    monkeypatch.setattr(perf_gate, "working_tree", lambda folder: Here("the working tree", folder))
    monkeypatch.setattr(perf_gate, "committed", Here)
    return said


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert isinstance(done.exception, SystemExit | None)
    return done.exit_code, done.output


def test_nothing_changed_passes_without_measuring(sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sources["measured"] = iter("aa")
    monkeypatch.setattr(perf_gate, "measure", pytest.fail)
    code, output = run("--base", "v1")
    assert code == 0
    assert "nothing under edgellm/ or csrc/ changed since v1" in output


@pytest.mark.usefixtures("sources")
def test_a_run_is_recorded_with_every_sample(synthetic_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_gate, "LIMITS", dict.fromkeys(LIMITS, 100))
    monkeypatch.setattr(perf_gate, "WORK", "tg5@8")
    output = tmp_path / "gate.json"
    arguments = ("--model", synthetic_model, "--rounds", 10, "--output", output)
    assert run(*arguments)[0] == 0
    (record,) = read_results(output)["records"]
    assert {name: [len(calls) for calls in found] for name, found in record["samples_ns"].items()} == dict.fromkeys(
        ("base", "head", "base again"), [5] * 10
    )
    assert record["passed"]
    assert record["figures"].keys() == LIMITS.keys()
    code, shown = run(*arguments, "--self-check", 1)
    assert code == 0
    assert "1 of 1 runs of one build passed" in shown


@pytest.mark.usefixtures("sources")
def test_a_regression_is_exit_code_1(tmp_path: Path, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_gate, "measure", seeded(lambda rng: rounds(rng, slower=1.2)))
    code, output = run("--output", tmp_path / "gate.json", "--model", synthetic_model)
    assert code == 1
    assert "FAIL" in output


def seeded(head: Callable[[np.random.Generator], Rounds]) -> Callable[..., None]:
    def measure(packages: object, model: object, threads: object, count: object, samples_ns: dict[str, Rounds]) -> None:
        rng = np.random.default_rng(7)
        samples_ns.update({"base": rounds(rng), "head": head(rng), "base again": rounds(rng)})

    return measure


@pytest.mark.usefixtures("sources")
def test_interrupt_keeps_the_turns_that_were_done(tmp_path: Path, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(runs: object, count: object) -> Iterator[dict[str, list[int]]]:
        yield {"base": [1], "head": [2], "base again": [3]}
        raise KeyboardInterrupt

    monkeypatch.setattr(perf_gate, "take_turns", interrupted)
    output = tmp_path / "gate.json"
    code, shown = run("--output", output, "--model", synthetic_model)
    assert code == 2
    assert "interrupted" in shown
    assert read_results(output)["records"][0]["samples_ns"] == {"base": [[1]], "head": [[2]], "base again": [[3]]}


@pytest.mark.parametrize("error", [RevisionError("no such revision"), RevisionError("does not build")])
@pytest.mark.usefixtures("sources")
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(perf_gate, "committed", fail)
    assert run() == (2, f"perf-gate: {error}\n")
