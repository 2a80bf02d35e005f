"""The report over result files: the claims, then what was measured on each machine with each build.

Numbers of different machines or builds are never put into one table: what they share stands under a heading that names both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgellm.report import claims, comparison, schemes, summary
from edgellm.report.blocks import Block, Heading, Notes, Table
from edgellm.report.claims import CLAIMS, Finding
from edgellm.report.numbers import DIGITS, interval, number
from edgellm.report.reading import read_all
from edgellm.report.sources import Beside, Measurement, Origin, Quality, SchemeQuality, Source, Throughput

SCHEMA = "edgellm-report"
VERSION = 1


@dataclass(frozen=True)
class Report:
    """What the files say, and a line for each file that cannot be read."""

    sources: Sequence[Source]
    problems: Sequence[str]

    @property
    def origins(self) -> dict[Origin, str]:
        """Machines and builds, each with a letter."""
        distinct = dict.fromkeys(source.origin for source in self.sources if source.summarised)
        return {origin: _letter(index) for index, origin in enumerate(distinct)}


def make_report(paths: Sequence[Path]) -> Report:
    """Read the files."""
    return Report(*read_all(paths))


def blocks(report: Report) -> Iterator[Block]:
    """The report for reading."""
    yield Heading(1, "EdgeLLM: claims and measurements")
    yield Heading(2, "Claims")
    yield from _claims(report)
    if len(report.origins) > 1:
        machines, builds = ({facts(origin) for origin in report.origins} for facts in (Origin.of_machine, Origin.of_build))
        yield Notes((f"Machines: {len(machines)}. Builds: {len(builds)}. What one of them measured is not compared with another's.",))
    for origin, letter in report.origins.items():
        yield from _measured(report, origin, letter)
    yield Heading(2, "Files")
    yield _files(report)


def as_json(report: Report) -> dict[str, Any]:
    """The report as one JSON-able object; docs/results.md describes it."""
    judged = claims.judge(report.sources)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "claims": [
            {**asdict(claim), "findings": [_finding(finding, report.origins) for finding in findings]} for claim, findings in judged.items()
        ],
        "origins": [{"letter": letter, **asdict(origin), "dirty": origin.dirty} for origin, letter in report.origins.items()],
        "rows": [{"origin": report.origins[source.origin], **asdict(row)} for source in report.sources for row in _rows(source)],
        "files": [{"file": source.file, "kind": source.kind, "summarised": source.summarised} for source in report.sources],
        "problems": list(report.problems),
    }


def _rows(source: Source) -> list[Measurement | Throughput | Quality | SchemeQuality | Beside]:
    return [*source.measurements, *source.throughputs, *source.qualities, *source.schemes, *source.besides]


def _letter(index: int) -> str:
    """A, B, ... Z, AA, ..."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _claims(report: Report) -> Iterator[Block]:
    """A row per finding, numbered; below it, by its number, where it comes from."""
    several = len(report.origins) > 1
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for claim, findings in claims.judge(report.sources).items():
        for finding in findings:
            evidence, mark = finding.evidence, str(len(rows) + 1)
            letter = [report.origins[evidence.origin]] if several else []
            cells = finding.verdict, number(evidence.value, DIGITS), interval(evidence.interval, DIGITS), claim.limit_text
            rows.append((mark, "" if finding is not findings[0] else claim.statement, *letter, *cells))
            notes.append(f"{mark}: {_where_from(finding)}")
        if not findings:
            rows.append((str(len(rows) + 1), claim.statement, *([""] if several else []), "not measured here", "", "", claim.limit_text))
            notes.append(f"{len(rows)}: {claim.figure} is in none of these files; {claim.command} measures it")
    head = ("", "claim", *(["on"] if several else []), "verdict", "measured", "95%", "limit")
    yield Table(head, tuple(rows), names=len(head) - 3)
    yield Notes(tuple(notes))
    if caveats := tuple(claim.caveat for claim in CLAIMS if claim.caveat):
        yield Notes(caveats)


def _where_from(finding: Finding) -> str:
    evidence = finding.evidence
    said = [f"{finding.claim.figure} of {evidence.about}; {evidence.test} in {evidence.file}", finding.doubt, *evidence.caveats]
    return "; ".join(filter(None, said))


def _finding(finding: Finding, letters: Mapping[Origin, str]) -> dict[str, Any]:
    evidence = finding.evidence
    facts = {key: value for key, value in asdict(evidence).items() if key not in ("origin", "exact")}
    return {"verdict": finding.verdict, "kept": finding.kept, "doubt": finding.doubt, "origin": letters[evidence.origin], **facts}


def _measured(report: Report, origin: Origin, letter: str) -> Iterator[Block]:
    sources = [source for source in report.sources if source.origin == origin]
    measurements = [measurement for source in sources for measurement in source.measurements]
    throughputs = [throughput for source in sources for throughput in source.throughputs]
    yield Heading(2, f"{letter}: {origin.title}" if len(report.origins) > 1 else origin.title)
    dirty = " There were uncommitted changes: the commit does not say what was measured." if origin.dirty else ""
    remarks = [f"{source.file}: {remark}" for source in sources for remark in source.remarks if source.summarised]
    yield Notes((f"{origin.system}; commit {origin.commit}, C sources {origin.csrc_hash}.{dirty}", *remarks))
    names = summary.labels([measurement.subject for measurement in measurements])
    yield from summary.tables(measurements, throughputs, [quality for source in sources for quality in source.qualities], names)
    if found := [scheme for source in sources for scheme in source.schemes]:
        yield from schemes.blocks(found)
    if besides := [beside for source in sources for beside in source.besides]:
        yield Heading(3, "In turn: ratios of figures")
        yield comparison.turns_table(besides)
        yield Notes((comparison.TURNS_NOTE,))
    if comparisons := comparison.compare(measurements):
        yield Heading(3, "Beside each other: ratios of figures")
        yield comparison.table(comparisons, names)
        yield Notes((comparison.NOTE,))


def _files(report: Report) -> Table:
    rows = [
        (
            source.file,
            source.kind,
            source.created[:19],
            report.origins.get(source.origin, ""),
            "" if source.summarised else "not summarised",
        )
        for source in report.sources
    ]
    return Table(("file", "kind", "created", "on", ""), tuple(rows), names=5)
