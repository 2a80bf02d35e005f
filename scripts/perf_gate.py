"""Has the working tree become slower, or less steady, than a revision? Exit code 0: no, 1: it has, 2: that could not be measured.

    python -m scripts.perf_gate [--base REV]          or: nox -s perf-gate -- --base REV
    python -m scripts.perf_gate --self-check 20       the working tree against itself, so often

Both are built as wheels; each runs in a process of its own, the base in two, and they take turns. A figure fails when the lower end of
head/base is above its limit, and above what the two processes of the base differ by in the same run. Figures and ratios are those of
edgellm.measure.compare, so what is judged is a typical round of 150 tokens: a fault in fewer than every other one passes, as a burst of
the machine has to.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
from tqdm import tqdm

from edgellm.errors import EdgeLLMError
from edgellm.formats.fetch import resolve_model
from edgellm.measure.compare import Ratio, Rounds, ratios, take_turns
from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.results import Record, ResultsFile
from edgellm.measure.table import markdown
from edgellm.measure.telemetry import Bystanders
from scripts.build_process import Build, BuildError
from scripts.environment import ROOT
from scripts.revisions import Package, RevisionError, committed, working_tree

LIMITS = {"p50": 1.08, "p99": 1.25, "jitter": 1.5}
"""Of head/base. Each is above where the interval begins when both are one build, on a shared machine of two processors (benchmarks/results/
perf_gate_aa.json), and below where 15% more per token (p50) and stalls of 5 ms in 2% of the tokens (p99, jitter) put it, which
tests/perf/test_perf_gate.py measures."""

WORK = "tg150@8"
"""A round's p99 lies between its second and third slowest token of 150: two slow ones, which four of five rounds have where 2% are slow,
raise it."""
ROUNDS = 20
SETTLE_S = 0.01
"""Slept before each round, so that no build is timed while the threads of another still spin."""
BASE, HEAD, AGAIN = "base", "head", "base again"
COLUMNS = ("head/base", "ratio", "95% interval", "base/base", "limit", "verdict")


@dataclass(frozen=True)
class Finding:
    """A figure's ratio head/base, that of one process of the base to the other, and the limit that follows."""

    figure: str
    head: Ratio
    base: Ratio
    limit: float

    @property
    def kept(self) -> bool:
        """Whether head is not known to be worse."""
        return self.head.low is not None and self.head.low <= self.limit

    def row(self) -> tuple[str, ...]:
        """Of the table."""
        interval = f"{self.head.low:.3f} .. {self.head.high:.3f}"
        return (
            self.figure,
            f"{self.head.ratio:.3f}",
            interval,
            f"{self.base.ratio:.3f}",
            f"{self.limit:.3f}",
            "pass" if self.kept else "FAIL",
        )


class GateError(Exception):
    """The run says nothing: a process imported another package than its build's, or a figure has no interval."""


def measure(packages: dict[str, Package], model: Path, threads: int, rounds: int, samples_ns: dict[str, Rounds]) -> None:
    """Let the packages take turns, and add each whole turn to `samples_ns`, where it stays when Ctrl-C ends it."""
    samples_ns.update((name, []) for name in packages)
    with ExitStack() as stack:
        builds = {name: stack.enter_context(Build(package.folder, model, threads)) for name, package in packages.items()}
        for name, package in packages.items():
            check_origin(builds[name], package)
        turns = take_turns({name: partial(settled_round, build) for name, build in builds.items()}, rounds)
        for turn in tqdm(turns, total=rounds, desc=WORK, unit="turn", leave=False):
            for name, calls_ns in turn.items():
                samples_ns[name].append(calls_ns)


def settled_round(build: Build) -> list[int]:
    """What each token took."""
    time.sleep(SETTLE_S)
    return build.run(WORK)


def check_origin(build: Build, package: Package) -> None:
    """GateError unless the process runs this package, and the package has the kernels of its sources."""
    for kind in ("file", "native_file"):
        if not Path(build.facts[kind]).is_relative_to(package.folder.resolve()):
            raise GateError(f"the process of {package.revision} imported {build.facts[kind]}, which is not its build in {package.folder}")
    if build.facts["csrc_hash"] != package.csrc_hash:
        hashes = f"{build.facts['csrc_hash']}, not {package.csrc_hash}"
        raise GateError(f"the build of {package.revision} has the kernels of other sources: {hashes}. Remove {package.folder}")


def judge(base: Rounds, head: Rounds, again: Rounds) -> list[Finding]:
    """A finding for each figure that has a limit."""
    of_head, of_base = ratios(base, head, again), ratios(base, again)
    findings = []
    for figure, limit in LIMITS.items():
        difference = of_base[figure].difference
        if difference is None or of_head[figure].low is None:
            raise GateError(f"{len(base)} rounds give no interval of {figure}; take more (--rounds)")
        findings.append(Finding(figure, of_head[figure], of_base[figure], max(limit, difference)))
    return findings


def gate(base: Package, head: Package, model: Path, threads: int, rounds: int, results: ResultsFile) -> list[Finding]:
    """One run, into the file; also what an interrupted one measured."""
    packages = {BASE: base, HEAD: head, AGAIN: base}
    bystanders = Bystanders()
    record: Record = {
        "test": WORK,
        "n_threads": threads,
        "builds": {name: {"revision": package.revision, "csrc_hash": package.csrc_hash} for name, package in packages.items()},
        "samples_ns": {},
    }
    results.append(record)
    measure(packages, model, threads, rounds, record["samples_ns"])
    findings = judge(*record["samples_ns"].values())
    record["figures"] = {finding.figure: asdict(finding) | {"kept": finding.kept} for finding in findings}
    record["passed"] = all(finding.kept for finding in findings)
    record["bystanders"] = bystanders.shares()
    results.save()
    return findings


def show(findings: Sequence[Finding]) -> bool:
    """Print the table; whether all is kept."""
    click.echo(markdown(COLUMNS, [finding.row() for finding in findings]))
    for finding in findings:
        if finding.limit > LIMITS[finding.figure]:
            click.echo(
                f"{finding.figure}: the base differs from itself by more than the limit, {LIMITS[finding.figure]}; repeat it when idle"
            )
    return all(finding.kept for finding in findings)


def stop(message: str) -> NoReturn:
    """One line, and the exit code for what could not be measured."""
    click.echo(f"perf-gate: {message}", err=True)
    sys.exit(2)


@click.command(help=__doc__)
@click.option("--base", default="HEAD~1", show_default=True, help="The revision to compare with.")
@click.option("--model", default="smollm2-135m", show_default=True, help="A path, or the name of a converted model.")
@click.option("-t", "--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("-r", "--rounds", type=click.IntRange(10), default=ROUNDS, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The results file; results/perf_gate.json if not given.")
@click.option("--self-check", type=click.IntRange(1), metavar="RUNS", help="Compare the working tree with itself, so often.")
def main(base: str, model: str, threads: int, rounds: int, output: Path | None, self_check: int | None) -> None:
    """Build, measure, judge."""
    output = output or ROOT / "results" / ("perf_gate_aa.json" if self_check else "perf_gate.json")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            now = working_tree(Path(scratch) / "head")
            then = now if self_check else committed(base, Path(scratch) / "base")
            if not self_check and now.measured == then.measured:
                click.echo(f"perf-gate: nothing under edgellm/ or csrc/ changed since {then.revision}; pass, without measuring")
                return
            old, new = then.package(), now.package()
        output.parent.mkdir(parents=True, exist_ok=True)
        run = partial(gate, old, new, resolve_model(model).resolve(), threads, rounds)
        with ResultsFile(output, kind="perf-gate", fingerprint=fingerprint()) as results:
            click.echo(f"{WORK} t={threads}, {rounds} rounds each: {new.revision} beside {old.revision}")
            passed = [show(run(results)) for _ in range(self_check or 1)]
    except (RevisionError, BuildError, GateError, EdgeLLMError) as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop(f"interrupted; if measuring had begun, {output} has its whole turns")
    if self_check:
        click.echo(f"{sum(passed)} of {self_check} runs of one build passed")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
