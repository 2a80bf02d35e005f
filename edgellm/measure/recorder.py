"""Runs a test's rounds through pytest-benchmark, keeps everything that they gave, and judges it: the fixture `latency_recorder`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pytest_benchmark.fixture import BenchmarkFixture

from edgellm.errors import InvalidRequestError
from edgellm.measure import noise
from edgellm.measure.backends.protocol import Backend
from edgellm.measure.budgets import Limits, Verdict
from edgellm.measure.figures import Figures, figures_of_rounds, figures_of_samples
from edgellm.measure.journal import Journal
from edgellm.measure.noise import NoiseProbe
from edgellm.measure.progress import Progress
from edgellm.measure.protocol import NEW_TOKENS, ROUNDS, WARMUP_ROUNDS, Prompt, Round, run_round, settle
from edgellm.measure.telemetry import Telemetry

SCHEMA = "edgellm-latency"
VERSION = 2
QUICK_ROUNDS = 10

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rounds:
    """How many rounds the run makes of what a test asks for: `asked` by the user for every test, or a few of each where it is `quick`."""

    asked: int | None
    quick: bool

    def of(self, needed: int) -> int:
        """For a test that needs so many; one that needs a single round has its rounds inside of it."""
        if needed == 1:
            return 1
        return self.asked or (min(needed, QUICK_ROUNDS) if self.quick else needed)


@dataclass(frozen=True)
class Judged:
    """Verdicts on a test: on its budgets, which decide, and on the project's claims, which are shown."""

    budgets: Sequence[Verdict]
    claims: Sequence[Verdict]
    unmeasured: Mapping[str, str]
    """Budgets without a figure, and why there is none."""

    @property
    def broken(self) -> list[str]:
        """In words, what fails the test."""
        return [str(verdict) for verdict in self.budgets if not verdict.kept]


@dataclass
class LatencyRecorder:
    """Measures in one test; `record` or `time` once, `add` and `cannot` as often as there are figures.

    The test's budgets are judged when it ends: a broken one fails it, and one that names what was not measured skips it.
    All that was measured goes into `extra_info` of the test in pytest-benchmark's JSON, also of rounds that an error or Ctrl-C ended.
    """

    benchmark: BenchmarkFixture
    test: str
    limits: Limits
    claims: Limits
    named: Mapping[str, float]
    rounds: Rounds
    progress: Progress
    journal: Journal | None = None
    figures: Figures = field(default_factory=Figures)
    judged: Judged | None = None
    what: str = ""
    """In words, what was measured; empty before anything was."""
    noise: Mapping[str, float | None] = field(default_factory=dict)
    _why_not: dict[str, str] = field(default_factory=dict)

    def record(
        self,
        backend: Backend,
        prompt: Prompt,
        *,
        new_tokens: int = NEW_TOKENS,
        rounds: int = ROUNDS["latency"],
        warmup_rounds: int = WARMUP_ROUNDS,
        deadline_ms: float | None = None,
    ) -> Figures:
        """Have the prompt continued by `new_tokens` tokens, in `rounds` rounds after the warm-up, which is discarded.

        Between rounds the system is asked what the round cost, and the machine's own noise is probed. `deadline_ms` is for each token.
        Raises BackendFailedError as the backend does.
        """
        description = backend.description()
        probe = NoiseProbe(backend.threads or 1, description.get("model_size"))
        telemetry, taken = Telemetry(backend.process_id), _Taken(warmup_rounds, self.rounds.of(rounds))
        info = self._begin(backend={"name": backend.name, "threads": backend.threads, **description}, warmup_rounds=warmup_rounds)
        info |= {"prompt": {"name": prompt.name, "tokens": prompt.tokens, "counted": prompt.counted}, "new_tokens": new_tokens}
        info["noise_before"] = probe.sample()

        def before() -> None:
            settle(backend, prompt, taken.number)
            telemetry.begin()

        def after() -> None:
            cost = telemetry.end()
            self.progress.step()
            record = taken.close(prompt_tokens=prompt.tokens, telemetry=cost, noise=probe.sample())
            if record and self.journal:
                self.journal.append({**{key: info[key] for key in ("test", "backend", "prompt")}, "round": record})

        def call() -> None:
            taken.latest = run_round(backend, prompt.text(taken.number), new_tokens)

        try:
            self._run(call, before, after, taken.wanted, warmup_rounds, description=f"{backend.name}, {prompt.name} prompt")
        finally:
            if taken.rounds:
                self._summarise(taken, info, deadline_ms)
        self._only_whole_answers(taken.rounds, new_tokens)
        prompted = f"{prompt.tokens} tokens and {new_tokens} more"
        self.what = f"{backend.name}, {backend.threads or '?'} threads, {prompted}, {len(taken.rounds)} rounds"
        return self.figures

    def time(
        self,
        name: str,
        call: Callable[[], Result],
        *,
        rounds: int,
        warmup_rounds: int = 0,
        setup: Callable[[], None] | None = None,
    ) -> list[Result]:
        """Time any call, `rounds` times after the warm-up, with `setup` before each, untimed: what the calls gave, in order.

        The figures are named `name`_p50_ms and so on. NAME must not be one of ttft, itl, e2e.
        """
        if name in ("ttft", "itl", "e2e"):
            raise InvalidRequestError(f"{name} is what `record` measures; give what a test times itself another name")
        info, results = self._begin(warmup_rounds=warmup_rounds), list[Result]()
        benchmark: Any = self.benchmark  # its methods carry no types
        try:
            self._run(
                lambda: results.append(call()),
                setup or (lambda: None),
                self.progress.step,
                self.rounds.of(rounds),
                warmup_rounds,
                description=name,
            )
        finally:
            seconds = benchmark.stats.stats.data if benchmark.stats else []
            if seconds:
                info["samples_ns"] = [round(each * 1e9) for each in seconds]
                self.figures.update(figures_of_samples(name, info["samples_ns"]))
        self.what = f"{len(seconds)} rounds"
        return results[warmup_rounds:][: len(seconds)]

    def add(self, **figures: float) -> None:
        """Figures that the test computed; InvalidRequestError for what is no finite number, because `cannot` says that there is none."""
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InvalidRequestError(f"the figure {name} = {value} is no measurement; say with `cannot` why there is none")
            self.figures.add(name, float(value))

    def note(self, **facts: Any) -> None:
        """What else the JSON is to say of the test."""
        self.benchmark.extra_info.update(facts)

    def cannot(self, figure: str, reason: str) -> None:
        """Say why a figure can't be measured here; a test that has a budget for it is skipped with that reason."""
        self._why_not[figure] = reason

    def judge(self) -> Judged:
        """The verdicts, which go into the JSON as well."""
        values = self.figures.values
        asked = self.limits.for_test(self.test, self.named)
        unmeasured = {
            name: self._why_not.get(name, f"it was not measured; measured: {', '.join(sorted(values)) or 'nothing'}")
            for name in asked
            if name not in values
        }
        claims = self.claims.for_test(self.test, {})
        self.judged = Judged(
            [Verdict(name, values[name], limit) for name, limit in asked.items() if name in values],
            [Verdict(name, values[name], limit) for name, limit in claims.items() if name in values],
            unmeasured,
        )
        self.benchmark.extra_info.update(
            figures=values,
            intervals=self.figures.intervals,
            rounds_needed=self.figures.rounds_needed,
            not_measured={**self._why_not, **unmeasured},
            budgets=[verdict.record() for verdict in self.judged.budgets],
            claims=[verdict.record() for verdict in self.judged.claims],
        )
        return self.judged

    def _begin(self, **facts: Any) -> dict[str, Any]:
        """What the JSON says of the test, to be filled further. InvalidRequestError where it was begun: it would say it of two things."""
        if "schema" in self.benchmark.extra_info:
            raise InvalidRequestError(f"{self.test} has measured already; a test measures once: parametrise it")
        self.benchmark.extra_info.update({"schema": SCHEMA, "version": VERSION, "provenance": "measured", "test": self.test, **facts})
        info: dict[str, Any] = self.benchmark.extra_info
        return info

    def _run(
        self,
        call: Callable[[], object],
        before: Callable[[], None],
        after: Callable[[], None],
        rounds: int,
        warmup_rounds: int,
        description: str,
    ) -> None:
        """Through pytest-benchmark. Where it ends early, the JSON says why, and holds the rounds that were done, if any was."""
        benchmark: Any = self.benchmark
        with self.progress.of(f"{self.test}: {description}", rounds + warmup_rounds):
            try:
                benchmark.pedantic(call, setup=before, teardown=after, rounds=rounds, warmup_rounds=warmup_rounds)
            except BaseException as error:
                benchmark.has_error = not (benchmark.stats and benchmark.stats.stats.data)
                self.benchmark.extra_info["interrupted"] = f"{type(error).__name__}: {error}"
                raise

    def _summarise(self, taken: _Taken, info: dict[str, Any], deadline_ms: float | None) -> None:
        """The rounds come first: they are to be in the JSON also where their figures can't be computed, or are not waited for."""
        records = taken.records()
        info |= {"rounds": records, "deadline_ms": deadline_ms}
        self.figures.update(figures_of_rounds(taken.rounds, deadline_ms))
        samples = [info["noise_before"], *(record["noise"] for record in records)]
        piece_ms = self.figures.values.get("itl_p50_ms") or self.figures.values["ttft_p50_ms"]  # tokens may come several at once
        self.noise = noise.describe(samples, piece_ms * 1e6)
        info["noise"] = dict(self.noise)

    def _only_whole_answers(self, rounds: Sequence[Round], new_tokens: int) -> None:
        """Times of whole answers are no figures where answers have another length than was asked for: a short one would look quick."""
        lengths = {each.tokens for each in rounds} - {new_tokens}
        if not lengths:
            return
        for name in [name for name in self.figures.values if name.startswith("e2e_") or name == "run_jitter_std_ms"]:
            self.figures.drop(name)
            self.cannot(name, f"answers had {min(lengths)} to {max(lengths)} tokens where {new_tokens} were asked for")


class _Taken:
    """The rounds as they come: the first `warmup_rounds` are forgotten, and what comes after `wanted` more (--benchmark-cprofile)."""

    def __init__(self, warmup_rounds: int, wanted: int) -> None:
        self.wanted = wanted
        self.rounds: list[Round] = []
        self.latest: Round | None = None
        self.number = 0
        self._warmup_rounds = warmup_rounds
        self._lines: list[str] = []  # as text, which takes a fifth of the memory that the numbers do

    def close(self, **facts: Any) -> dict[str, Any] | None:
        """Keep the latest round with these facts, and give its record, if it is one that counts."""
        assert self.latest is not None
        self.number += 1
        if self.number <= self._warmup_rounds or len(self.rounds) == self.wanted:
            return None
        record = {**self.latest.record(), **facts}
        self.rounds.append(self.latest)
        self._lines.append(json.dumps(record))
        return record

    def records(self) -> list[dict[str, Any]]:
        """Of the rounds that count."""
        return [json.loads(line) for line in self._lines]
