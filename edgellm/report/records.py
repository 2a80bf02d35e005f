"""Results files (`edgellm.measure.results`): which records of which kind are summarised, and as what."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from edgellm.measure.statistics import F64, Interval, bootstrap_interval, mean_ci95, standard_deviation
from edgellm.report.fields import Fields
from edgellm.report.sources import Quality, Source, Throughput, origin, subject

THROUGHPUTS = ("bench", "peers")
QUALITIES = ("quality", "quality_peers")
SCIPY = find_spec("scipy") is not None
NO_SCIPY = "no intervals, because scipy is not installed: pip install 'edgellm[measure]'"


def read_records(document: dict[str, Any], file: str) -> Source:
    """A results file's document. Records of other shapes than these kinds' main one are left out, and counted. ResultsError."""
    top = Fields(document, f"{file}:")
    kind = top.required("kind").text("kind")
    provenance = top.required("provenance").text("provenance")
    records = top.list_of_fields("records")
    throughputs = [record for record in records if kind in THROUGHPUTS and {"samples_ts", "backend"} <= set(record)]
    qualities = [record for record in records if kind in QUALITIES and "ppl" in record]
    kept = len(throughputs) + len(qualities)
    return Source(
        file=file,
        kind=kind,
        created=top.text("created"),
        origin=origin(top.fields("fingerprint")),
        throughputs=tuple(_throughput(record, provenance, file) for record in throughputs),
        qualities=tuple(_quality(record, provenance, file) for record in qualities),
        remarks=(
            *((f"{kept} of {len(records)} records are summarised",) if kept < len(records) else ()),
            *((NO_SCIPY,) if throughputs and not SCIPY else ()),
        ),
    )


def _throughput(record: Fields, provenance: str, file: str) -> Throughput:
    samples = record.numbers("samples_ts")
    std = standard_deviation(samples)  # refuses what are no samples
    return Throughput(
        file=file,
        test=record.required("test").text("test"),
        subject=subject(record.text("backend"), record.count("n_threads"), record),
        rounds=len(samples),
        provenance=provenance,
        mean=sum(samples) / len(samples),
        interval=_mean_interval(samples),
        std=std,
    )


def _quality(record: Fields, provenance: str, file: str) -> Quality:
    perplexity, reference = record.required_number("ppl"), record.fields("reference")
    theirs = reference.number("ppl")
    return Quality(
        file=file,
        backend=record.text("backend"),
        text=record.text("text"),
        windows=len(record.numbers("window_nlls")),
        window_tokens=record.count("window_tokens"),
        provenance=provenance,
        perplexity=perplexity,
        reference=reference.text("backend"),
        reference_perplexity=theirs,
        ratio=perplexity / theirs if theirs else None,
        interval=_ratio_interval(record.numbers("window_nlls"), reference.numbers("window_nlls")),
    )


def _mean_interval(samples: Sequence[float]) -> Interval | None:
    """None for one sample, and without scipy, which a file's remarks then say."""
    bounds = mean_ci95(samples) if SCIPY else None
    return None if bounds is None else Interval(*bounds)


def _ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Of the ratio of perplexities, by drawing windows of the text anew; None where the reference has none, or others."""
    if not ours or len(ours) != len(theirs):
        return None
    return bootstrap_interval(_perplexity_ratio, [[nll] for nll in ours], [[nll] for nll in theirs])


def _perplexity_ratio(ours: F64, theirs: F64) -> F64:
    return np.asarray(np.exp(ours.mean(axis=-1) - theirs.mean(axis=-1)))
