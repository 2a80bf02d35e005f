"""What the report knows of result files once they are read: who was measured, on what, and with which figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgellm.measure.statistics import Interval
from edgellm.report.fields import Fields

DIRTY = "-dirty"
MEASURED = "measured"
OURS = "edgellm"


@dataclass(frozen=True)
class Origin:
    """The machine and the build: numbers are compared only where both are the same. Every field is as it is shown."""

    machine: str
    system: str
    commit: str
    csrc_hash: str

    @property
    def title(self) -> str:
        """Machine and commit."""
        return f"{self.machine}, commit {self.commit[:12]}{DIRTY if self.dirty else ''}"

    def of_machine(self) -> tuple[str, str]:
        """The machine alone, and what runs on it."""
        return self.machine, self.system

    def of_build(self) -> tuple[str, str]:
        """The build alone."""
        return self.commit, self.csrc_hash

    @property
    def dirty(self) -> bool:
        """Whether the sources had changes that no commit holds."""
        return self.commit.endswith(DIRTY)


@dataclass(frozen=True)
class Subject:
    """What was measured: an engine with a model and so many threads.

    model_bytes, parameters: of the model's weights; None where the engine does not say
    """

    backend: str
    version: str
    model: str
    threads: int | None
    isa: str
    model_bytes: int | None
    parameters: int | None

    @property
    def title(self) -> str:
        """As tables name it: "edgellm, 1 thread"."""
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{self.backend or 'no engine named'}{threads}"

    @property
    def ours(self) -> bool:
        """Whether it is this engine."""
        return self.backend == OURS

    @property
    def synthetic(self) -> bool:
        """Whether the weights are random: such a model is only timed."""
        return "synthetic" in self.model


@dataclass(frozen=True)
class Limit:
    """A budget of a figure, as its test judged it."""

    limit: float
    kept: bool


@dataclass(frozen=True)
class Measurement:
    """A test of one subject with one prompt, and its figures, which are named as budgets name them.

    prompt:        its name and how many tokens it is, "" for a test without one; `counted`: by the engine's own tokenizer, not estimated
    rounds_needed: of figures for whose interval there were too few
    noise:         the machine's own, in the same run
    limits:        that the test's budgets set to its figures, and whether they were kept
    not_measured:  why a figure is not there
    interrupted:   why the run ended before its last round; "" if it did not
    """

    file: str
    test: str
    subject: Subject
    prompt: str
    prompt_tokens: int | None
    counted: bool
    rounds: int
    provenance: str
    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    rounds_needed: Mapping[str, int]
    noise: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    not_measured: Mapping[str, str] = field(default_factory=dict)
    interrupted: str = ""

    @property
    def situation(self) -> str:
        """Prompt and rounds: "medium prompt of 128 tokens, 100 rounds"."""
        tokens = f" of {'' if self.counted else 'about '}{self.prompt_tokens} tokens" if self.prompt_tokens else ""
        prompt = f"{self.prompt} prompt{tokens}" if self.prompt else ""
        return ", ".join(filter(None, (prompt, f"{self.rounds} rounds" if self.rounds else "")))


@dataclass(frozen=True)
class Throughput:
    """Tokens per second of one of llama-bench's tests, such as pp128 or tg64."""

    file: str
    test: str
    subject: Subject
    rounds: int
    provenance: str
    mean: float
    interval: Interval | None
    std: float | None


@dataclass(frozen=True)
class Quality:
    """Perplexity of a text, and what a reference gave on the same windows; ratio: ours over theirs, with its interval over windows."""

    file: str
    backend: str
    text: str
    windows: int
    window_tokens: int | None
    provenance: str
    perplexity: float
    reference: str
    reference_perplexity: float | None
    ratio: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class SchemeRatio:
    """Perplexity of a text, `bos`: each window after a BOS token; ratio: over the baseline's on the same windows."""

    text: str
    bos: bool
    perplexity: float
    ratio: float
    interval: Interval | None


@dataclass(frozen=True)
class SchemeDivergence:
    """Of a text: KL(baseline || model) in nats per token, the mean with its interval; how often the most likely tokens differ."""

    text: str
    mean: float
    interval: Interval | None
    median: float | None
    p99: float | None
    flip_rate: float | None


@dataclass(frozen=True)
class SchemeAccuracy:
    """Share of a task's items that were answered rightly; delta: less the baseline's on the same items, with its paired interval."""

    task: str
    items: int | None
    accuracy: float
    baseline: float
    delta: float
    interval: Interval | None


@dataclass(frozen=True)
class SchemeQuality:
    """A model file beside the baseline. bits per weight of the layers' matrices; `substituted`: matrices that are of another type."""

    file: str
    name: str
    backend: str
    baseline: str
    provenance: str
    file_bytes: int | None
    weights: int | None
    layers_bits: float | None
    ratios: tuple[SchemeRatio, ...]
    divergences: tuple[SchemeDivergence, ...]
    accuracies: tuple[SchemeAccuracy, ...]
    tokens_per_second: float | None
    joules_per_token: float | None
    substituted: str

    @property
    def times_smaller(self) -> float | None:
        """Than its weights in 16 bits each."""
        return 2 * self.weights / self.file_bytes if self.weights and self.file_bytes else None

    @property
    def worst(self) -> float | None:
        """The largest upper end of its ratios' intervals, or ratio where that is open; None where there is none."""
        return max(
            (each.ratio if each.interval is None or each.interval.high is None else each.interval.high for each in self.ratios),
            default=None,
        )


@dataclass(frozen=True)
class Beside:
    """A figure of one that took turns with another, over the other's.

    resolution: by how much the other differs from itself; None where that was not measured
    limit:      the most that the ratio may be, None where nothing is judged
    """

    file: str
    test: str
    what: str
    over: str
    figure: str
    ratio: float
    interval: Interval | None
    resolution: float | None
    limit: float | None
    verdict: str
    provenance: str


@dataclass(frozen=True)
class Source:
    """A file that was read. `remarks` say what of it the report leaves out, and what a reader has to know of the rest."""

    file: str
    kind: str
    created: str
    origin: Origin
    measurements: tuple[Measurement, ...] = ()
    throughputs: tuple[Throughput, ...] = ()
    qualities: tuple[Quality, ...] = ()
    schemes: tuple[SchemeQuality, ...] = ()
    besides: tuple[Beside, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def summarised(self) -> bool:
        """Whether anything of it is shown."""
        return bool(self.measurements or self.throughputs or self.qualities or self.schemes or self.besides)


def origin(fingerprint: Fields) -> Origin:
    """Of a file's fingerprint (see `edgellm.measure.fingerprint`)."""
    memory = fingerprint.number("memory_bytes")
    machine = (
        fingerprint.text("cpu_model") or "unknown processor",
        f"{fingerprint.count('cpu_count') or '?'} CPUs",
        f"{memory / 2**30:.1f} GiB" if memory else "",
        fingerprint.text("architecture"),
    )
    system = (
        " ".join(filter(None, (fingerprint.text("system"), fingerprint.text("kernel")))) or "unknown system",
        *(f"{key} {value}" for key in ("governor", "hypervisor", "container") if (value := fingerprint.text(key)) not in ("", "none")),
    )
    return Origin(
        machine=", ".join(filter(None, machine)),
        system=", ".join(system),
        commit=fingerprint.text("git_commit") or "unknown",
        csrc_hash=fingerprint.fields("build").text("csrc_hash") or "unknown",
    )


def subject(name: str, threads: int | None, description: Fields) -> Subject:
    """Of what a backend says of itself (`Backend.description`)."""
    return Subject(
        backend=name,
        version=description.text("backend_version"),
        model=description.text("model_filename"),
        threads=threads,
        isa=description.text("isa"),
        model_bytes=description.count("model_size"),
        parameters=description.count("model_n_params"),
    )
