"""Throughput in llama-bench's shape: pp128 (prefill of 128 tokens) and tg64 (64 decoded tokens), raw samples kept.

A round of ppN runs N tokens at once from an empty cache. A round of "tgN @ dD" first runs D tokens, which are not timed, then N tokens
one at a time, each timed, so the context grows from D to D + N; tgN alone means D = 1. The token ids are random with a fixed seed, the
same for every backend. No sampling, no tokenizer. The first round warms up and is discarded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from edgellm.errors import InvalidRequestError
from edgellm.measure.backends.protocol import LoadTokenBackend, TokenBackend
from edgellm.measure.results import Record
from edgellm.measure.statistics import standard_deviation
from edgellm.measure.table import markdown
from edgellm.runtime.machine import cpu_model

SEED = 20
DEPTH = 1
"""Tokens in the cache before the first timed token of tgN, unless a case says otherwise."""


@dataclass(frozen=True)
class Case:
    """One thing to time: `tokens` prefilled at once (`kind` "pp") or decoded one at a time ("tg") after `depth` others."""

    kind: str
    tokens: int
    depth: int = DEPTH

    def __str__(self) -> str:
        return f"{self.kind}{self.tokens}" + (f" @ d{self.depth}" if self.depth != DEPTH else "")

    @property
    def context(self) -> int:
        """How many tokens the cache must hold."""
        return self.tokens if self.kind == "pp" else self.tokens + self.depth

    def run(self, backend: TokenBackend) -> list[int]:
        """One round: the nanoseconds that each call took, one of pp and `tokens` of tg."""
        ids = np.random.default_rng(SEED).integers(backend.vocab_size, size=self.context).tolist()
        return _time_prefill(backend, ids) if self.kind == "pp" else _time_decode(backend, ids, self.depth)


@dataclass(frozen=True)
class Turn:
    """What one backend does in every round."""

    backend: TokenBackend
    case: Case


def run(
    model: str | Path,
    prompt_sizes: Sequence[int],
    gen_sizes: Sequence[int],
    threads: Sequence[int],
    rounds: int,
    progress: bool = True,
    load: LoadTokenBackend | None = None,
) -> Iterator[Record]:
    """Measure a model file: one record per thread count and case (see `measure`), on EdgeLLM unless `load` gives another backend.

    The progress bar goes to stderr. Raises InvalidRequestError, before anything is measured, for sizes, threads or rounds below 1
    and when there is nothing to do.
    """
    cases = [Case("pp", size) for size in prompt_sizes] + [Case("tg", size) for size in gen_sizes]
    if not cases:
        raise InvalidRequestError("nothing to measure: give at least one prompt size or one generation size")
    if not threads:
        raise InvalidRequestError("nothing to measure: give at least one number of threads")
    for what, counts in (("prompt size", prompt_sizes), ("generation size", gen_sizes), ("threads", threads), ("rounds", [rounds])):
        for count in counts:
            if count < 1:
                raise InvalidRequestError(f"{what} {count} is not possible; it must be at least 1")
    return _run(Path(model), cases, threads, rounds, progress, load or _load_edgellm)


def _run(
    model: Path, cases: Sequence[Case], threads: Sequence[int], rounds: int, progress: bool, load: LoadTokenBackend
) -> Iterator[Record]:
    for count in threads:
        backend = load(model, threads=count, context=max(case.context for case in cases))
        try:
            yield from measure([backend], cases, rounds, progress)
        finally:
            backend.unload()


def measure(
    backends: Sequence[TokenBackend], cases: Sequence[Case], rounds: int, progress: bool = True, settle_s: float = 0
) -> Iterator[Record]:
    """Time each case on each backend, the backends taking turns (see `interleave`): per case one record per backend."""
    for case in cases:
        yield from interleave([Turn(backend, case) for backend in backends], rounds, progress, settle_s)


def interleave(turns: Sequence[Turn], rounds: int, progress: bool = True, settle_s: float = 0) -> Iterator[Record]:
    """Take the turns one after another within every round (A B A B), after a round of warm-up: one record per turn, in their order.

    `settle_s` is slept before every turn, so that no backend is timed while another's threads still spin.
    On Ctrl-C yields the records of the rounds done so far, and then KeyboardInterrupt goes on its way.
    """
    facts = [_facts(turn.backend) for turn in turns]
    samples: list[list[list[int]]] = [[] for _ in turns]
    stopped: KeyboardInterrupt | None = None
    cases = ", ".join(dict.fromkeys(str(turn.case) for turn in turns))
    threads = ", ".join(dict.fromkeys(str(turn.backend.threads) for turn in turns))
    try:
        for number in tqdm(range(1 + rounds), desc=f"{cases} t={threads}", unit="round", disable=not progress, leave=False):
            for turn, calls_ns in zip(turns, samples, strict=True):
                time.sleep(settle_s)
                round_ns = turn.case.run(turn.backend)
                if number > 0:
                    calls_ns.append(round_ns)
    except KeyboardInterrupt as interrupt:
        stopped = interrupt
    for turn, of_whom, calls_ns in zip(turns, facts, samples, strict=True):
        if calls_ns:
            yield of_whom | _timing(turn.case, calls_ns)
    if stopped:
        raise stopped


def table(records: Sequence[Record]) -> str:
    """The records as an aligned Markdown table, llama-bench's columns: tokens per second, mean and standard deviation."""
    head = ("model", "size", "params", "backend", "threads", "test", "t/s")
    return markdown(head, [_row(record) for record in records])


def _time_prefill(backend: TokenBackend, ids: list[int]) -> list[int]:
    start = time.perf_counter_ns()
    backend.prefill(ids)
    return [time.perf_counter_ns() - start]


def _time_decode(backend: TokenBackend, ids: list[int], depth: int) -> list[int]:
    backend.prefill(ids[:depth])
    times_ns = [time.perf_counter_ns()]
    for token in ids[depth:]:
        backend.decode(token)
        times_ns.append(time.perf_counter_ns())
    return [after - before for before, after in pairwise(times_ns)]


def _load_edgellm(model: Path, *, threads: int, context: int) -> TokenBackend:
    from edgellm.measure.backends.edgellm import EdgeLLMBackend  # here, because other backends need no compiled kernels

    return EdgeLLMBackend(model, threads=threads, context=context)


def _facts(backend: TokenBackend) -> Record:
    return {"cpu_info": cpu_model(), "backend": backend.name, "n_threads": backend.threads, **backend.description()}


def _timing(case: Case, calls_ns: list[list[int]]) -> Record:
    samples_ns = [sum(round_ns) for round_ns in calls_ns]
    samples_ts = [case.tokens * 1e9 / ns for ns in samples_ns]
    return {
        "n_prompt": case.tokens if case.kind == "pp" else 0,
        "n_gen": case.tokens if case.kind == "tg" else 0,
        "n_depth": 0 if case.kind == "pp" else case.depth,
        "test": str(case),
        "test_time": datetime.now(UTC).isoformat(timespec="seconds"),
        "avg_ns": float(np.mean(samples_ns)),
        "stddev_ns": standard_deviation(samples_ns),
        "avg_ts": float(np.mean(samples_ts)),
        "stddev_ts": standard_deviation(samples_ts),
        "samples_ns": samples_ns,
        "samples_ts": samples_ts,
        **({"itl_ns": calls_ns} if case.kind == "tg" else {}),
    }


def _row(record: Record) -> tuple[str, ...]:
    spread = "" if record["stddev_ts"] is None else f" ± {record['stddev_ts']:.2f}"
    return (
        record["model_filename"],
        f"{record['model_size'] / 2**20:.2f} MiB",
        f"{record['model_n_params'] / 1e6:.2f} M",
        record["backend"],
        str(record["n_threads"]),
        record["test"],
        f"{record['avg_ts']:.2f}{spread}",
    )
