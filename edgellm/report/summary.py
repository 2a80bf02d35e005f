"""The tables of one machine and build: latency, jitter beside the machine's own, memory, throughput, perplexity."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgellm.report.blocks import Block, Heading, Notes, Table
from edgellm.report.numbers import NOT_AVAILABLE, interval, number, shortened, with_interval
from edgellm.report.sources import MEASURED, Measurement, Quality, Subject, Throughput


@dataclass(frozen=True)
class Column:
    """A figure in a table: its head, its name, and whether its interval is shown. Noise is the machine's, not the engine's."""

    head: str
    figure: str
    interval: bool = False
    noise: bool = False

    def cell(self, measurement: Measurement) -> str:
        """What it says of a measurement."""
        figures = measurement.noise if self.noise else measurement.figures
        return with_interval(figures.get(self.figure), measurement.intervals.get(self.figure) if self.interval else None)


@dataclass(frozen=True)
class Layout:
    """A table of measurements: those that have its first figure."""

    title: str
    columns: tuple[Column, ...]
    note: str = ""


LATENCY = (
    Layout(
        "Time to first token, ms, with 95% intervals",
        (Column("p50", "ttft_p50_ms", True), Column("p95", "ttft_p95_ms", True), Column("p99", "ttft_p99_ms", True)),
    ),
    Layout(
        "Inter-token latency, ms, and tokens per second, with 95% intervals",
        (Column("p50", "itl_p50_ms", True), Column("p99", "itl_p99_ms", True), Column("tokens/s, mean", "tokens_per_second", True)),
    ),
    Layout(
        "Jitter, and the machine's own in the same run",
        (
            Column("run std, ms", "run_jitter_std_ms", True),
            Column("ITL std, ms", "itl_std_ms"),
            Column("MAD, ms", "itl_mad_ms"),
            Column("p99/p50", "itl_p99_over_p50"),
            Column("misses", "itl_deadline_misses"),
            Column("spin", "spin_p99_over_p50", noise=True),
            Column("read", "read_p99_over_p50", noise=True),
        ),
        "run std: of the end-to-end time over rounds. Spin and read: p99/p50 of fixed work in registers as long as a token takes, and of "
        "reading as many bytes as the weights are. Neither is the engine's, so how they scatter is the machine's doing.",
    ),
)

RESOURCES = (
    Layout(
        "Memory and start",
        (
            Column("peak RSS, MiB", "peak_rss_mib"),
            Column("steady RSS, MiB", "steady_rss_mib"),
            Column("load, ms", "load_ms"),
            Column("cold start p50, ms", "cold_start_p50_ms", True),
        ),
    ),
    Layout(
        "Energy",
        (
            Column("J/token", "joules_per_token"),
            Column("net of idle", "net_joules_per_token"),
            Column("idle W", "idle_watts"),
            Column("active W", "active_watts"),
        ),
        "J/token is everything that the provider covers, net of idle what the run added to the idle machine.",
    ),
)
"""Tables of figures of which every test measures another."""

SPREAD = re.compile(r"(_(p50|p95|p99|mean|std|mad|max)_ms|_(p99|max)_over_p50|_deadline_misses|^tokens_per_second)$")
"""Figures of whatever is timed: the tables above show those that say most."""


def tables(
    measurements: Sequence[Measurement], throughputs: Sequence[Throughput], qualities: Sequence[Quality], names: Mapping[Subject, str]
) -> Iterator[Block]:
    """Every table that there is something for; `names` are the subjects' `labels`."""
    if any(subject.backend for subject in names):
        yield Heading(3, "What was measured")
        yield subjects(names)
    for layout in LATENCY:
        if rows := [measurement for measurement in measurements if layout.columns[0].figure in measurement.figures]:
            yield Heading(3, layout.title)
            yield _latency(layout, rows, names)
            if layout.note:
                yield Notes((layout.note,))
    if lacking := tuple(_lacking(measurements, names)):
        yield Heading(3, "Intervals that need more rounds")
        yield Notes(lacking)
    if measurements:
        for layout in RESOURCES:
            yield from _resources(layout, measurements, names)
    yield from _others(measurements, names)
    if throughputs:
        yield Heading(3, "Throughput, tokens per second, with 95% intervals of the mean")
        yield _throughput(throughputs)
    if qualities:
        yield Heading(3, "Perplexity")
        yield _quality(qualities)


def labels(subjects: Sequence[Subject]) -> dict[Subject, str]:
    """A short name for each, with the model in it where several are run, and a number where even that tells too little."""
    distinct = list(dict.fromkeys(subjects))
    names: dict[Subject, str] = {}
    for subject in distinct:
        short = subject.backend if subject.threads is None else f"{subject.backend} {subject.threads}t"
        alike = [other for other in distinct if (other.backend, other.threads) == (subject.backend, subject.threads)]
        number_of = f" #{alike.index(subject) + 1}" if len(alike) > 1 else ""
        names[subject] = f"{short or '-'}{number_of}{' synthetic' if subject.synthetic else ''}"
    return names


def subjects(names: Mapping[Subject, str]) -> Table:
    """Who is behind the short names."""
    rows = [
        (
            name,
            shortened(subject.version),
            shortened(subject.model, 40),
            shortened(subject.isa, 16),
            number(subject.model_bytes and subject.model_bytes / 1e6),
            number(subject.parameters and subject.parameters / 1e6),
        )
        for subject, name in names.items()
        if subject.backend
    ]
    return Table(("", "version", "model", "instructions", "MB", "M weights"), tuple(rows), names=4)


def _latency(layout: Layout, measurements: Sequence[Measurement], names: Mapping[Subject, str]) -> Table:
    head = ("", "prompt", "rounds", *(column.head for column in layout.columns))
    rows = [
        (names[measurement.subject], _prompt(measurement), _rounds(measurement), *(column.cell(measurement) for column in layout.columns))
        for measurement in measurements
    ]
    return Table(head, tuple(rows), names=2)


def _prompt(measurement: Measurement) -> str:
    """Its name and tokens, the test's name where there is none."""
    tokens = f"{'' if measurement.counted else '~'}{measurement.prompt_tokens}" if measurement.prompt_tokens else ""
    return f"{measurement.prompt} {tokens}".strip() or measurement.test


def _rounds(measurement: Measurement) -> str:
    """How many, and what else has to be known of them."""
    marks = [measurement.provenance] if measurement.provenance != MEASURED else []
    marks += ["interrupted"] if measurement.interrupted else []
    return " ".join([str(measurement.rounds), *(f"({mark})" for mark in marks)])


def _marked(test: str, provenance: str) -> str:
    return test if provenance == MEASURED else f"{test} ({provenance})"


def _lacking(measurements: Sequence[Measurement], names: Mapping[Subject, str]) -> Iterator[str]:
    """A line for each figure of the tables above and number of rounds that do not bound it on both sides."""
    shown = [column.figure for layout in LATENCY for column in layout.columns if column.interval]
    lacking: dict[tuple[str, int, int], dict[str, None]] = {}
    for measurement in measurements:
        for figure in shown:
            if needed := measurement.rounds_needed.get(figure):
                where = f"{names[measurement.subject]} {_prompt(measurement)}"
                lacking.setdefault((figure, needed, measurement.rounds), {})[where] = None
    for (figure, needed, rounds), wheres in lacking.items():
        yield f"{figure}: both bounds need {needed} rounds, there are {rounds} ({'; '.join(wheres)})"


def _resources(layout: Layout, measurements: Sequence[Measurement], names: Mapping[Subject, str]) -> Iterator[Block]:
    """Tests that each measure one of the figures share a row, unless two measured the same."""
    rows: list[tuple[list[Measurement], list[Column]]] = []
    for measurement in measurements:
        columns = [column for column in layout.columns if column.figure in measurement.figures]
        if columns:
            row = next((row for row in rows if row[0][0].subject == measurement.subject and not set(row[1]) & set(columns)), None)
            if row is None:
                rows.append(row := ([], []))
            row[0].append(measurement)
            row[1].extend(columns)
    yield Heading(3, layout.title)
    if rows:
        yield Table(
            ("", "tests", *(column.head for column in layout.columns)), tuple(_shared(layout, tests, names) for tests, _ in rows), 2
        )
    missing = [column for column in layout.columns if not any(column in columns for _, columns in rows)]
    why_not = [f"{column.head}: n/a, {_why_not(column.figure, measurements)}" for column in (missing if rows else layout.columns[:1])]
    if lines := [*([layout.note] if rows and layout.note else []), *why_not]:
        yield Notes(tuple(lines))


def _shared(layout: Layout, tests: Sequence[Measurement], names: Mapping[Subject, str]) -> tuple[str, ...]:
    """A row of figures from several tests of one subject."""
    titles = ", ".join(_marked(test.test.removeprefix("test_"), test.provenance) for test in tests)
    cells = [next((column.cell(test) for test in tests if column.figure in test.figures), NOT_AVAILABLE) for column in layout.columns]
    return names[tests[0].subject], shortened(titles, 36), *cells


def _why_not(figure: str, measurements: Sequence[Measurement]) -> str:
    """What the files say of a figure that none of them has."""
    reasons = dict.fromkeys(filter(None, (measurement.not_measured.get(figure) for measurement in measurements)))
    return "; ".join(reasons) or "no test in these files measures it"


def _others(measurements: Sequence[Measurement], names: Mapping[Subject, str]) -> Iterator[Block]:
    """Figures that tests compute themselves, with what their budgets say."""
    rows = []
    for measurement in measurements:
        for figure in sorted(measurement.figures.keys() - {column.figure for layout in RESOURCES for column in layout.columns}):
            if not SPREAD.search(figure):
                budget = measurement.limits.get(figure)
                verdict = (number(budget.limit), "kept" if budget.kept else "BROKEN") if budget else ("", "")
                value = with_interval(measurement.figures[figure], measurement.intervals.get(figure))
                rows.append((names[measurement.subject], _marked(measurement.test, measurement.provenance), figure, value, *verdict))
    if rows:
        yield Heading(3, "Other figures, and their budgets")
        yield Table(("", "test", "figure", "value", "budget", ""), tuple(rows), names=3)


def _throughput(throughputs: Sequence[Throughput]) -> Table:
    """What did the same test on as many threads stands together."""
    rows = [
        (
            _marked(each.test, each.provenance),
            str(each.subject.threads or "?"),
            shortened(each.subject.backend, 16),
            shortened(each.subject.model, 40),
            str(each.rounds),
            number(each.mean),
            interval(each.interval),
            number(each.std),
        )
        for each in sorted(throughputs, key=lambda each: (each.test, each.subject.threads or 0))
    ]
    return Table(("test", "threads", "engine", "model", "rounds", "mean", "95%", "std"), tuple(rows), names=4)


def _quality(qualities: Sequence[Quality]) -> Table:
    rows = [
        (
            _marked(each.text, each.provenance),
            each.backend,
            f"{each.windows} x {each.window_tokens or '?'}",
            number(each.perplexity, 4),
            each.reference or NOT_AVAILABLE,
            number(each.reference_perplexity, 4),
            with_interval(each.ratio, each.interval, 4),
        )
        for each in qualities
    ]
    return Table(("text", "engine", "windows", "perplexity", "reference", "perplexity", "ratio"), tuple(rows), names=2)
