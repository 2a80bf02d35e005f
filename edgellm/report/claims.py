"""What the project claims, and what measurements say of it.

A claim is judged for every machine, build and subject that a file has its figure of. The verdict is that of the figure itself; where its
interval lies on both sides of the limit, the verdict says so, because another run may then decide otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgellm.measure.statistics import Interval
from edgellm.report.numbers import DIGITS, number
from edgellm.report.sources import MEASURED, OURS, Measurement, Origin, Quality, Source, Subject, Throughput

FP16_BYTES = 2


@dataclass(frozen=True)
class Claim:
    """One line of the roadmap.

    statement:  as the roadmap has it
    figure:     what is judged, unit included
    limit:      the most that it may be, or with `at_least` the least
    prompt:     which measurements count; None where the prompt does not matter
    command:    what measures it
    caveat:     what a reader has to know of every figure of it
    """

    key: str
    statement: str
    figure: str
    limit: float
    command: str
    at_least: bool = False
    prompt: str | None = None
    caveat: str = ""

    def keeps(self, value: float) -> bool:
        """Whether a figure is within the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def limit_text(self) -> str:
        """For reading: "at most 100"."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


CLAIMS = (
    Claim("deterministic_latency", "deterministic latency (jitter < 10 ms)", "run_jitter_std_ms", 10, "nox -s perf", prompt="medium"),
    Claim(
        "smaller",
        "4.8x smaller than FP16",
        "fp16_size_ratio",
        4.8,
        "nox -s perf",
        at_least=True,
        caveat="fp16_size_ratio: 2 bytes a weight, over the bytes that the model's weights take, scales included; a model that is small "
        "enough need not be the one whose perplexity is given",
    ),
    Claim("memory", "runs in 512 MB", "peak_rss_mib", 512, "nox -s perf"),
    Claim(
        "quality",
        "comparable quality (perplexity within 5%)",
        "perplexity_ratio",
        1.05,
        "nox -s quality",
        caveat="perplexity_ratio: over what a reference gives for the same Q4_1 file (transformers: dequantised to float32), "
        "because no FP16 original of the model is at hand",
    ),
    Claim("real_time", "real-time capable (TTFT < 100 ms)", "ttft_p95_ms", 100, "nox -s perf", prompt="medium"),
)


@dataclass(frozen=True)
class Evidence:
    """A figure that a claim is judged by, and where it comes from.

    interval: None where there is none; an exact figure needs none
    about:    what was measured
    caveats:  what weakens the figure
    """

    value: float
    interval: Interval | None
    origin: Origin
    file: str
    test: str
    about: str
    caveats: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True)
class Finding:
    """A claim's verdict by one piece of evidence."""

    claim: Claim
    evidence: Evidence

    @property
    def kept(self) -> bool:
        """Whether the figure itself is within the limit."""
        return self.claim.keeps(self.evidence.value)

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return ("pass" if self.kept else "FAIL") + (", in doubt" if self._crosses else "")

    @property
    def doubt(self) -> str:
        """How the interval weakens the verdict; nothing where it does not."""
        if self.evidence.exact:
            return ""
        if self.evidence.interval is None:
            return "no interval says how sure that is"
        if self._towards_limit is None:
            return "its interval is open towards the limit"
        return f"{'pass' if self.kept else 'FAIL'}, but the interval reaches {number(self._towards_limit, DIGITS)}" if self._crosses else ""

    @property
    def _towards_limit(self) -> float | None:
        """The interval's bound on the limit's side, which may lie beyond it."""
        low, high = self.evidence.interval or Interval(None, None)
        return low if self.kept == self.claim.at_least else high

    @property
    def _crosses(self) -> bool:
        return self._towards_limit is not None and self.claim.keeps(self._towards_limit) != self.kept


def judge(sources: Sequence[Source]) -> dict[Claim, list[Finding]]:
    """What the files say of each claim: nothing where none has its figure of this engine."""
    return {claim: [Finding(claim, evidence) for evidence in _evidence(claim, sources)] for claim in CLAIMS}


def _evidence(claim: Claim, sources: Sequence[Source]) -> Iterator[Evidence]:
    match claim.figure:
        case "fp16_size_ratio":
            yield from _sizes(sources)
        case "perplexity_ratio":
            for source in sources:
                for quality in source.qualities:
                    if quality.backend == OURS:
                        yield from _of_quality(quality, source)
        case figure:
            for source in sources:
                for measurement in source.measurements:
                    if measurement.subject.ours and figure in measurement.figures and claim.prompt in (None, measurement.prompt):
                        yield _of_measurement(measurement, figure, source.origin)


def _of_measurement(measurement: Measurement, figure: str, origin: Origin) -> Evidence:
    needed = measurement.rounds_needed.get(figure)
    caveats = (
        *_caveats(measurement.provenance, measurement.subject),
        *([f"interrupted, {measurement.rounds} rounds"] if measurement.interrupted else []),
        *([f"both bounds of its interval need {needed} rounds"] if needed else []),
    )
    return Evidence(
        value=measurement.figures[figure],
        interval=measurement.intervals.get(figure),
        origin=origin,
        file=measurement.file,
        test=measurement.test,
        about=f"{measurement.subject.title}, {measurement.situation}",
        caveats=caveats,
    )


def _sizes(sources: Sequence[Source]) -> Iterator[Evidence]:
    """One per model, wherever it is named first: what it takes depends neither on the machine nor on the file's name."""
    seen: set[tuple[int, int]] = set()
    for source in sources:
        tests: list[Measurement | Throughput] = [*source.measurements, *source.throughputs]
        for measured in tests:
            subject = measured.subject
            if subject.ours and subject.model_bytes and subject.parameters and (subject.parameters, subject.model_bytes) not in seen:
                seen.add((subject.parameters, subject.model_bytes))
                yield Evidence(
                    value=FP16_BYTES * subject.parameters / subject.model_bytes,
                    interval=None,
                    origin=source.origin,
                    file=source.file,
                    test=measured.test,
                    about=f"{subject.model}, {subject.parameters / 1e6:.1f} M weights in {subject.model_bytes / 1e6:.1f} MB",
                    caveats=_caveats(measured.provenance, subject),
                    exact=True,
                )


def _of_quality(quality: Quality, source: Source) -> Iterator[Evidence]:
    """Nothing where the text has no reference."""
    if quality.ratio is not None:
        against = f"perplexity {quality.perplexity:.3f}, {quality.reference} {quality.reference_perplexity:.3f}"
        yield Evidence(
            value=quality.ratio,
            interval=quality.interval,
            origin=source.origin,
            file=source.file,
            test=f"perplexity of {quality.text}",
            about=f"{quality.windows} windows of {quality.window_tokens} tokens: {against}",
            caveats=() if quality.provenance == MEASURED else (quality.provenance,),
        )


def _caveats(provenance: str, subject: Subject) -> tuple[str, ...]:
    return (*([] if provenance == MEASURED else [provenance]), *(["synthetic: random weights"] if subject.synthetic else []))
