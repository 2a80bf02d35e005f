"""Latency runs: pytest-benchmark's JSON with what `edgellm-latency` adds to it, and the journal that an interrupted run leaves.

docs/results.md describes both, field by field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from edgellm.measure import journal
from edgellm.measure.figures import Figures, figures_of_rounds
from edgellm.measure.protocol import Round
from edgellm.measure.results import ResultsError, parse_json
from edgellm.report.fields import Fields, printable
from edgellm.report.sources import MEASURED, Limit, Measurement, Source, Subject, origin, subject

SCHEMA = "edgellm-latency"
VERSION = 2
INTERRUPTED = "the run did not end"


def read_benchmarks(document: Any, file: str) -> Source:
    """pytest-benchmark's JSON; what other plugins and tests put into it is left out, and counted. ResultsError."""
    top = Fields(document, f"{file}:")
    benchmarks = [(benchmark, benchmark.fields("extra_info")) for benchmark in top.list_of_fields("benchmarks")]
    ours = [(benchmark, extra) for benchmark, extra in benchmarks if extra.text("schema") == SCHEMA]
    for _, extra in ours:
        check_version(extra, VERSION, "measure again with: nox -s perf")
    tests = [measurement(benchmark.text("name"), extra, file, _provenance(extra)) for benchmark, extra in ours]
    unmetered = top.fields("energy").text("why_not")
    remarks = (
        f"{len(ours)} of {len(benchmarks)} benchmarks are of schema {SCHEMA}" if 0 < len(ours) < len(benchmarks) else "",
        _shares(top.fields("bystanders")),
        *(meter(extra.fields("energy")) for _, extra in ours),
    )
    return Source(
        file=file,
        kind="latency" if ours else "pytest-benchmark",
        created=top.text("datetime"),
        origin=origin(top.fields("fingerprint")),
        measurements=tuple(replace(each, not_measured={"joules_per_token": unmetered, **each.not_measured}) for each in tests),
        remarks=tuple(filter(None, remarks)),
    )


def read_journal(text: str, file: str) -> Source:
    """JSON lines: a head, then one line per round. The last line may be cut off; any other that is broken is a ResultsError."""
    head, *lines = text.splitlines() or [""]
    first = Fields(_parsed(head, f"{file}: line 1"), f"{file}: line 1")
    check_version(first, journal.VERSION, "read it with the program that wrote it")
    cut = bool(lines) and not text.endswith("\n")
    entries = [
        Fields(_parsed(line, f"{file}: line {number}"), f"{file}: line {number}")
        for number, line in enumerate(lines[: len(lines) - cut], 2)
    ]
    return Source(
        file=file,
        kind="journal",
        created=first.text("created"),
        origin=origin(first.fields("fingerprint")),
        measurements=tuple(_interrupted(entries, file)),
        remarks=("its last line is cut off, and left out",) if cut else (),
    )


def check_version(fields: Fields, version: int, remedy: str) -> None:
    """ResultsError, ending with the remedy, unless the fields are of this version of their schema."""
    found = fields.required_number("version")
    if found != version:
        schema = fields.text("schema")
        raise ResultsError(f"{fields.where} is of {schema} version {found:g}; this program reads version {version}: {remedy}")


def measurement(name: str, extra: Fields, file: str, provenance: str) -> Measurement:
    """Of what a test says; of one that ended before its figures were computed, those of the rounds that it has. ResultsError."""
    prompt, noise, reasons = (extra.fields(key) for key in ("prompt", "noise", "not_measured"))
    figures, intervals, needed = (extra.fields(key) for key in ("figures", "intervals", "rounds_needed"))
    rounds = extra.list_of_fields("rounds")
    computed = figures_of_rounds([_round(each) for each in rounds]) if rounds and "figures" not in extra else Figures()
    return Measurement(
        file=file,
        test=extra.text("test") or name,
        subject=_subject(extra),
        prompt=prompt.text("name"),
        prompt_tokens=prompt.count("tokens"),
        counted=prompt.flag("counted"),
        rounds=len(rounds) or len(extra.numbers("samples_ns")),
        provenance=provenance,
        figures=computed.values | _numbers(figures),
        intervals=computed.intervals | {figure: bounds for figure in intervals if (bounds := intervals.interval(figure))},
        rounds_needed=computed.rounds_needed | {figure: count for figure in needed if (count := needed.count(figure))},
        noise=_numbers(noise),
        limits={
            budget.text("name"): Limit(budget.required_number("limit"), budget.flag("kept")) for budget in extra.list_of_fields("budgets")
        },
        not_measured={figure: reasons.text(figure) for figure in reasons},
        interrupted=extra.text("interrupted"),
    )


def _interrupted(entries: Sequence[Fields], file: str) -> Iterator[Measurement]:
    """A measurement per test, backend and prompt, of the rounds that the journal holds of it, with the figures of a whole run."""
    rounds: dict[tuple[str, Subject, str, int | None, bool], list[Round]] = {}
    for entry in entries:
        prompt = entry.fields("prompt")
        whom = entry.required("test").text("test"), _subject(entry), prompt.text("name"), prompt.count("tokens"), prompt.flag("counted")
        rounds.setdefault(whom, []).append(_round(entry.required("round").fields("round")))
    for whom, done in rounds.items():
        figures = figures_of_rounds(done)
        yield Measurement(
            file, *whom, len(done), MEASURED, figures.values, figures.intervals, figures.rounds_needed, interrupted=INTERRUPTED
        )


def _round(fields: Fields) -> Round:
    itl_ns = [int(nanoseconds) for nanoseconds in fields.numbers("itl_ns")]
    return Round(int(fields.required_number("ttft_ns")), itl_ns, int(fields.required_number("e2e_ns")))


def _subject(fields: Fields) -> Subject:
    """A test that only times a call may name no backend."""
    backend = fields.fields("backend")
    return subject(backend.text("name"), backend.count("threads"), backend)


def _numbers(fields: Fields) -> dict[str, float]:
    return {printable(key): value for key in fields if (value := fields.number(key)) is not None}


def _provenance(extra: Fields) -> str:
    """Energy is read from something of its own, which may estimate."""
    return extra.fields("energy").text("kind") or extra.text("provenance") or "unknown"


def meter(energy: Fields) -> str:
    """Who read the energy, or nothing for a test that did not."""
    source, kind, rate = energy.text("source"), energy.text("kind"), energy.number("sample_rate_hz")
    readings = f", {rate:.3g} readings a second" if rate else ""
    return f"energy is {kind or 'read'} by {source}{readings}" if source else ""


def _shares(bystanders: Fields) -> str:
    """Who else had the processors meanwhile, or nothing where the file does not say."""
    others, stolen = bystanders.number("others"), bystanders.number("stolen")
    if others is None or stolen is None:
        return ""
    return f"of the processors' time, other processes had {others:.0%} meanwhile, other guests of the machine {stolen:.0%}"


def _parsed(line: str, where: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ResultsError(f"{where}: {error}") from error
