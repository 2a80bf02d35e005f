"""Latency runs: pytest-benchmark's JSON with what `edgellm-latency` adds to it, and the journal that an interrupted run leaves.

docs/results.md describes both, field by field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from edgellm.measure.results import ResultsError, parse_json
from edgellm.measure.statistics import jitter, percentile, standard_deviation
from edgellm.report.fields import Fields
from edgellm.report.sources import Measurement, Source, Subject, origin, subject

SCHEMA = "edgellm-latency"
VERSION = 2
JOURNAL_SCHEMA = "edgellm-journal"
JOURNAL_VERSION = 1
INTERRUPTED = "the run did not end"


def read_benchmarks(document: Any, file: str) -> Source:
    """pytest-benchmark's JSON; what other plugins and tests put into it is left out, and counted. ResultsError."""
    top = Fields(document, f"{file}:")
    benchmarks = [(benchmark, benchmark.fields("extra_info")) for benchmark in top.list_of_fields("benchmarks")]
    ours = [(benchmark, extra) for benchmark, extra in benchmarks if extra.text("schema") == SCHEMA]
    remarks = [f"{len(ours)} of {len(benchmarks)} benchmarks are of schema {SCHEMA}"] if 0 < len(ours) < len(benchmarks) else []
    for _, extra in ours:
        check_version(extra, VERSION, "measure again with: nox -s perf")
    if shares := _shares(top.fields("bystanders")):
        remarks.append(shares)
    return Source(
        file=file,
        kind="latency" if ours else "pytest-benchmark",
        created=top.text("datetime"),
        origin=origin(top.fields("fingerprint")),
        measurements=tuple(_measurement(benchmark.text("name"), extra, file) for benchmark, extra in ours),
        remarks=tuple(remarks),
    )


def read_journal(text: str, file: str) -> Source:
    """JSON lines: a head, then one line per round. The last line may be cut off; any other that is broken is a ResultsError."""
    head, *lines = text.splitlines() or [""]
    first = Fields(_parsed(head, f"{file}: line 1"), f"{file}: line 1")
    check_version(first, JOURNAL_VERSION, "read it with the program that wrote it")
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


def _measurement(name: str, extra: Fields, file: str) -> Measurement:
    prompt = extra.fields("prompt")
    figures, intervals, needed = (extra.fields(key) for key in ("figures", "intervals", "rounds_needed"))
    noise, reasons = extra.fields("noise"), extra.fields("not_measured")
    return Measurement(
        file=file,
        test=extra.text("test") or name,
        subject=_subject(extra),
        prompt=prompt.text("name"),
        prompt_tokens=prompt.count("tokens"),
        rounds=len(extra.list_of_fields("rounds")),
        provenance=extra.text("provenance") or "unknown",
        figures=_numbers(figures),
        intervals={figure: bounds for figure in intervals if (bounds := intervals.interval(figure))},
        rounds_needed={figure: count for figure in needed if (count := needed.count(figure))},
        noise=_numbers(noise),
        not_measured={figure: reasons.text(figure) for figure in reasons},
        interrupted=extra.text("interrupted"),
    )


def _interrupted(entries: Sequence[Fields], file: str) -> Iterator[Measurement]:
    """A measurement per test, backend and prompt, of the rounds that the journal holds of it."""
    rounds: dict[tuple[str, Subject, str, int | None], list[Fields]] = {}
    for entry in entries:
        prompt = entry.fields("prompt")
        measured = entry.required("test").text("test"), _subject(entry), prompt.text("name"), prompt.count("tokens")
        rounds.setdefault(measured, []).append(entry.required("round").fields("round"))
    for (test, whom, name, tokens), done in rounds.items():
        yield Measurement(file, test, whom, name, tokens, len(done), "measured", _figures(done), interrupted=INTERRUPTED)


def _figures(rounds: Sequence[Fields]) -> dict[str, float]:
    """What the recorder would have said of these rounds, without intervals."""
    ttft_ms, e2e_ms = ([each.required_number(key) / 1e6 for each in rounds] for key in ("ttft_ns", "e2e_ns"))
    itl_ms = [[nanoseconds / 1e6 for nanoseconds in each.numbers("itl_ns")] for each in rounds]
    tokens = list(chain.from_iterable(itl_ms))
    figures = {**_spread("ttft", ttft_ms), **_spread("e2e", e2e_ms), "run_jitter_std_ms": standard_deviation(e2e_ms)}
    if sum(tokens) > 0:
        scatter = jitter(tokens)
        figures |= _spread("itl", tokens)
        figures |= {"itl_mad_ms": scatter.mad, "itl_p99_over_p50": scatter.p99_over_p50, "itl_max_over_p50": scatter.max_over_p50}
        figures["tokens_per_second"] = len(tokens) * 1e3 / sum(tokens)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _spread(what: str, samples_ms: Sequence[float]) -> dict[str, float | None]:
    percentiles = {f"{what}_p{q}_ms": percentile(samples_ms, q) for q in (50, 95, 99)}
    return {**percentiles, f"{what}_std_ms": standard_deviation(samples_ms)}


def _subject(fields: Fields) -> Subject:
    """A test that only times a call may name no backend."""
    backend = fields.fields("backend")
    return subject(backend.text("name"), backend.count("threads"), backend)


def _numbers(fields: Fields) -> dict[str, float]:
    return {key: value for key in fields if (value := fields.number(key)) is not None}


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
