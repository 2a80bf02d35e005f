"""Results files (`edgellm.measure.results`): which records of which kind are summarised, and as what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np

from edgellm.measure.statistics import F64, Interval, bootstrap_interval, mean_ci95, standard_deviation
from edgellm.report.fields import Fields, printable
from edgellm.report.latency import measurement, meter
from edgellm.report.numbers import ratio
from edgellm.report.sources import (
    OURS,
    Beside,
    Measurement,
    Quality,
    SchemeAccuracy,
    SchemeDivergence,
    SchemeQuality,
    SchemeRatio,
    Source,
    Throughput,
    origin,
    subject,
)

SCIPY = find_spec("scipy") is not None
NO_SCIPY = "no intervals, because scipy is not installed: pip install 'edgellm[measure]'"


def read_records(document: dict[str, Any], file: str) -> Source:
    """A results file's document. Records of other shapes than these are left out, and counted. ResultsError."""
    top = Fields(document, f"{file}:")
    kind = top.required("kind").text("kind")
    provenance = top.required("provenance").text("provenance")
    records = top.list_of_fields("records")
    throughputs = [each for each in records if kind in ("bench", "peers", "scaling") and {"samples_ts", "backend"} <= set(each)]
    qualities = [each for each in records if kind in ("quality", "quality_peers") and "ppl" in each]
    schemes = [each for each in records if kind == "quality_schemes" and {"scheme", "perplexity", "divergence"} <= set(each)]
    engines = [each for each in records if kind == "backends" and {"backend", "figures"} <= set(each) and "unavailable" not in each]
    missing = [each for each in records if kind == "backends" and "unavailable" in each]
    gates = [each for each in records if kind == "perf-gate" and "figures" in each]
    energies = [each for each in records if kind == "energy" and {"energy", "figures"} <= set(each)]
    kept = len(throughputs) + len(qualities) + len(schemes) + len(engines) + len(missing) + len(gates) + len(energies)
    return Source(
        file=file,
        kind=kind,
        created=top.text("created"),
        origin=origin(top.fields("fingerprint")),
        measurements=(
            *(_engine(each, provenance, file) for each in engines),
            *(_energy(each, provenance, file) for each in energies),
        ),
        throughputs=tuple(_throughput(each, provenance, file) for each in throughputs),
        qualities=tuple(_quality(each, provenance, file) for each in qualities),
        schemes=tuple(_scheme(each, provenance, file) for each in schemes),
        besides=(
            *(
                _beside_ours(each, provenance, file)
                for each in engines
                if "e2e_over_ours" in each and each.fields("backend").text("name") != OURS
            ),
            *chain.from_iterable(_gate(each, provenance, file) for each in gates),
        ),
        remarks=(
            *(f"{each.fields('backend').text('name')} was not measured: {each.text('unavailable')}" for each in missing),
            *filter(None, (meter(each.fields("energy")) for each in energies)),
            *((f"{kept} of {len(records)} records are summarised",) if kept < len(records) else ()),
            *((NO_SCIPY,) if throughputs and not SCIPY else ()),
        ),
    )


def _engine(record: Fields, provenance: str, file: str) -> Measurement:
    """Of "backends": what a test of the plugin would say, and the memory beside it."""
    measured = measurement("backends", record, file, provenance)
    peak = record.number("peak_rss_mib")
    return measured if peak is None else replace(measured, figures={**measured.figures, "peak_rss_mib": peak})


def _energy(record: Fields, provenance: str, file: str) -> Measurement:
    """Of "energy": what a power meter's log said of a test, in as many rounds as could be read."""
    rounds = record.fields("energy").count("rounds_read") or 0
    return replace(measurement("energy", record, file, provenance), rounds=rounds)


def _beside_ours(record: Fields, provenance: str, file: str) -> Beside:
    return _beside(
        record.fields("e2e_over_ours"),
        file=file,
        test=record.fields("prompt").text("name"),
        what=record.fields("backend").text("name"),
        over=OURS,
        figure="e2e",
        limit=None,
        verdict=record.text("verdict"),
        provenance=provenance,
    )


def _gate(record: Fields, provenance: str, file: str) -> Iterator[Beside]:
    """A row for each figure that is judged."""
    figures, builds = record.fields("figures"), record.fields("builds")
    head, base = (builds.fields(name).text("revision")[:12] or name for name in ("head", "base"))
    for name in figures:
        judged = figures.fields(name)
        yield _beside(
            judged.fields("head"),
            file=file,
            test=record.text("test"),
            what=head,
            over=base,
            figure=printable(name),
            resolution=judged.number("resolution"),
            limit=judged.number("limit"),
            verdict="pass" if judged.flag("kept") else "FAIL",
            provenance=provenance,
        )


def _beside(compared: Fields, **facts: Any) -> Beside:
    """Of what `edgellm.measure.compare.Ratio` says."""
    bounds = Interval(compared.number("low"), compared.number("high"))
    return Beside(
        **{"resolution": compared.number("resolution")} | facts,
        ratio=compared.required_number("ratio"),
        interval=None if bounds == (None, None) else bounds,
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
        mean=float(np.mean(samples)),
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
        ratio=ratio(perplexity, theirs),
        interval=_ratio_interval(record.numbers("window_nlls"), reference.numbers("window_nlls")),
    )


def _scheme(record: Fields, provenance: str, file: str) -> SchemeQuality:
    return SchemeQuality(
        file=file,
        name=record.text("scheme"),
        backend=record.text("backend"),
        baseline=record.text("baseline"),
        provenance=provenance,
        file_bytes=record.count("file_bytes"),
        weights=record.count("weights"),
        layers_bits=record.number("layers_bits_per_weight"),
        ratios=tuple(map(_scheme_ratio, record.list_of_fields("perplexity"))),
        divergences=tuple(map(_scheme_divergence, record.list_of_fields("divergence"))),
        accuracies=tuple(map(_scheme_accuracy, record.fields("accuracy").list_of_fields("tasks"))),
        tokens_per_second=record.fields("tg64").number("avg_ts"),
        joules_per_token=record.fields("energy").number("joules_per_token"),
        substituted=record.text("substituted"),
    )


def _scheme_ratio(each: Fields) -> SchemeRatio:
    return SchemeRatio(
        each.text("text"), each.flag("bos"), each.required_number("ppl"), each.required_number("ratio"), each.interval("ratio_interval")
    )


def _scheme_divergence(each: Fields) -> SchemeDivergence:
    mean = each.fields("kl_mean")
    others = (each.fields(name).number("value") for name in ("kl_median", "kl_p99", "flip_rate"))
    return SchemeDivergence(each.text("text"), mean.required_number("value"), mean.interval("interval"), *others)


def _scheme_accuracy(each: Fields) -> SchemeAccuracy:
    accuracy, baseline, delta = map(each.required_number, ("accuracy", "baseline_accuracy", "delta"))
    return SchemeAccuracy(each.text("task"), each.count("items"), accuracy, baseline, delta, each.interval("delta_interval"))


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
