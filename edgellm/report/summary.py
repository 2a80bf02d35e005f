"""The tables of one machine and build: latency, jitter beside the machine's own, memory, throughput, perplexity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgellm.report.blocks import Block, Heading, Notes, Table
from edgellm.report.numbers import NOT_AVAILABLE, interval, number, shortened, with_interval
from edgellm.report.sources import Measurement, Quality, Subject, Throughput


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
            Column("spin p99/p50", "spin_p99_over_p50", noise=True),
            Column("read p99/p50", "read_p99_over_p50", noise=True),
        ),
        "run std: of the end-to-end time over rounds. Spin is fixed work in registers, read is as many bytes as the model's weights: "
        "neither is the engine's, so how they scatter is the machine's doing.",
    ),
)

RESOURCES = (
    Column("peak RSS, MiB", "peak_rss_mib"),
    Column("steady RSS, MiB", "steady_rss_mib"),
    Column("load, ms", "load_ms"),
    Column("cold start, ms", "cold_start_p50_ms"),
    Column("J/token", "joules_per_token"),
)


def tables(
    measurements: Sequence[Measurement], throughputs: Sequence[Throughput], qualities: Sequence[Quality], names: Mapping[Subject, str]
) -> Iterator[Block]:
    """Every table that there is something for; `names` are the subjects' `labels`."""
    if names:
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
    yield from _resources(measurements, names)
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
        names[subject] = short or "-" if len(alike) == 1 else f"{short} #{alike.index(subject) + 1}"
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
    return f"{measurement.prompt} {measurement.prompt_tokens or ''}".strip() or measurement.test


def _rounds(measurement: Measurement) -> str:
    return f"{measurement.rounds}{' (interrupted)' if measurement.interrupted else ''}"


def _lacking(measurements: Sequence[Measurement], names: Mapping[Subject, str]) -> Iterator[str]:
    """A line for each figure of the tables above and number of rounds that do not bound it on both sides."""
    shown = [column.figure for layout in LATENCY for column in layout.columns if column.interval]
    lacking: dict[tuple[str, int, int], list[str]] = {}
    for measurement in measurements:
        for figure in shown:
            if needed := measurement.rounds_needed.get(figure):
                lacking.setdefault((figure, needed, measurement.rounds), []).append(f"{names[measurement.subject]} {_prompt(measurement)}")
    for (figure, needed, rounds), where in lacking.items():
        yield f"{figure}: both bounds need {needed} rounds, there are {rounds} ({'; '.join(where)})"


def _resources(measurements: Sequence[Measurement], names: Mapping[Subject, str]) -> Iterator[Block]:
    """Memory, start and energy: tests that each measure one of them share a row, unless two measured the same."""
    wanted = {column.figure for column in RESOURCES}
    rows: list[tuple[Subject, list[str], dict[str, float]]] = []
    for measurement in measurements:
        figures = {figure: value for figure, value in measurement.figures.items() if figure in wanted}
        if figures:
            row = next((row for row in rows if row[0] == measurement.subject and not row[2].keys() & figures), None)
            if row is None:
                rows.append(row := (measurement.subject, [], {}))
            row[1].append(_prompt(measurement))
            row[2].update(figures)
    if rows:
        yield Heading(3, "Memory, start, energy")
        cells = [(names[subject], *(number(figures.get(column.figure)) for column in RESOURCES)) for subject, _, figures in rows]
        yield Table(("", *(column.head for column in RESOURCES)), tuple(cells))
        missing = [column for column in RESOURCES if not any(column.figure in figures for _, _, figures in rows)]
        if missing:
            yield Notes(tuple(f"{column.head}: n/a, {_why_not(column.figure, measurements)}" for column in missing))


def _why_not(figure: str, measurements: Sequence[Measurement]) -> str:
    """What the files say of a figure that none of them has."""
    reasons = dict.fromkeys(measurement.not_measured[figure] for measurement in measurements if figure in measurement.not_measured)
    return "; ".join(reasons) or "no test in these files measures it"


def _throughput(throughputs: Sequence[Throughput]) -> Table:
    """What did the same test on as many threads stands together."""
    rows = [
        (
            each.test,
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
            each.text,
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
