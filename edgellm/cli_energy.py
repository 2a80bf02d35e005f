"""What `edgellm energy` prints: who can measure here, or what a power meter's log says of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgellm.errors import InvalidRequestError
from edgellm.measure.energy import detect, later
from edgellm.measure.energy.alignment import Alignment
from edgellm.measure.energy.usb_meter import read_log
from edgellm.measure.results import ResultsFile

WIDTH = 24
"""Of the names before the figures."""


def show_providers(as_json: bool) -> None:
    """A line, or an object, for each."""
    detected = detect.detect()
    if as_json:
        click.echo("\n".join(json.dumps(detect.facts(found)) for found in detected))
        return
    click.echo(detect.lines(detected))
    if not any(found.provider for found in detected):
        click.echo(f"\nenergy: {detect.not_available(detected)}")


def read_meter(
    log_path: Path, of: Path, *, test: str | None, offset: float | None, within: float | None, output: Path | None, as_json: bool
) -> None:
    """Print the record, and write it where that is asked for. InvalidRequestError and ResultsError as `edgellm.measure.energy.later`."""
    if output and output.resolve() in (log_path.resolve(), of.resolve()):
        raise InvalidRequestError(f"-o {output} would replace what is read; give another name")
    timed, log = later.read_timed_test(of, test), read_log(log_path)
    alignment = later.locate(log, timed.timetable, offset, within)
    runs = later.read_runs(log, timed, alignment)
    record = later.record(timed, alignment, runs)
    if output:
        with ResultsFile(output, kind=later.KIND, fingerprint=timed.fingerprint, provenance=log.kind) as results:
            results.append(record)
    click.echo(json.dumps(record, indent=1) if as_json else "\n".join([f"{timed}, in {of}", *_lines(record, log.source, alignment)]))
    if output:
        click.echo(f"written: {output}", err=True)


def _lines(record: dict[str, Any], source: str, alignment: Alignment) -> Iterator[str]:
    """Figures, and where they come from."""
    figures, intervals, energy = record["figures"], record["intervals"], record["energy"]
    for name, value in figures.items():
        low, high = intervals.get(name, (None, None))
        yield f"{name:{WIDTH}}{value:.4g}" + ("" if low is None else f" (95%: {low:.4g} to {high:.4g})")
    if problem := energy["idle"]["problem"]:
        yield f"{'idle_watts':{WIDTH}}n/a, and so is what is net of it: {problem}"
    yield f"{'rounds':{WIDTH}}{energy['rounds']}, of which {energy['rounds_read']} could be read"
    for problem, rounds in energy["problems"].items():
        yield f"{'':{WIDTH}}{rounds} not: {problem}"
    yield f"{'source':{WIDTH}}{energy['kind']}, {energy['sample_rate_hz']:.3g} Hz: {source}"
    yield f"{'alignment':{WIDTH}}offset {alignment.offset_s:.3f} s, {alignment}"
