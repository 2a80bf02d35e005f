"""What each choice gives: variants of the engine that differ in one thing, all taking turns, as pytest-benchmark's JSON
(`nox -s perf -- ablation`).

pytest-benchmark times one test after the other, and a shared machine changes meanwhile. So all variants are timed first, in turn within
every round, and each test then gives pytest-benchmark its samples, on a clock that shows nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from edgellm.measure import bench
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.ops import native
from tests.perf.models import PUBLISHED, Models
from tests.perf.tables import Tables


@dataclass(frozen=True)
class Variant:
    """An engine, and the one that it differs from in one thing; `options` are those of `edgellm.Engine`."""

    name: str
    of: str = "baseline"
    model: str = PUBLISHED
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("baseline"),  # a recorded plan, one thread, keys and values in float16, the best instruction set
    Variant("op by op from Python", options={"make_ops": native.Eager}),
    Variant("2 threads", threads=2),
    Variant("float32 cache", options={"kv_dtype": "f32"}),
    *(Variant(isa, options={"isa": isa}) for isa in native.isas_available()[:-1]),
)
CASES = (bench.Case("tg", 32, depth=128), bench.Case("pp", 128))
COLUMNS = ("variant", "instead of", "weights", "test", "median ms", "time over that", "quartiles")


class Playback:
    """A clock on which time passes only as a recorded sample is played."""

    def __init__(self) -> None:
        self._now_ns = 0

    def play(self, sample_ns: int) -> None:
        """Let so much time pass."""
        self._now_ns += sample_ns

    def __call__(self) -> float:
        """Seconds, as pytest-benchmark asks for them."""
        return self._now_ns / 1e9


CLOCK = Playback()
Samples = Mapping[tuple[str, str], list[int]]
pytestmark = [pytest.mark.perf, pytest.mark.ablation, pytest.mark.benchmark(timer=CLOCK)]


@pytest.fixture(scope="module")
def samples(rounds: int, models: Models) -> Samples:
    """Nanoseconds of each round, by variant and case."""
    context = max(case.context for case in CASES)
    with ExitStack() as stack:
        turns: dict[tuple[str, str], bench.Turn] = {}
        for variant in VARIANTS:
            backend = EdgeLLMBackend(models.ours[variant.model], threads=variant.threads, context=context, **variant.options)
            stack.callback(backend.unload)
            turns |= {(variant.name, str(case)): bench.Turn(backend, case) for case in CASES}
        records = list(bench.interleave(list(turns.values()), rounds))
    return {key: record["samples_ns"] for key, record in zip(turns, records, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_ablation(variant: Variant, case: bench.Case, samples: Samples, benchmark: BenchmarkFixture, tables: Tables) -> None:
    """The variant's samples, and the ratio of its time to that of the one it differs from, round by round."""
    own, other = samples[variant.name, str(case)], samples[variant.of, str(case)]
    played: Any = benchmark  # its methods carry no types
    played.pedantic(CLOCK.play, setup=iter([((ns,), {}) for ns in own]).__next__, rounds=len(own))
    ratios = np.divide(own, other)
    low, middle, high = (float(np.percentile(ratios, q)) for q in (25, 50, 75))
    facts = {"variant": variant.name, "of": variant.of, "weights": variant.model, "test": str(case), "threads": variant.threads}
    played.extra_info.update(facts, provenance="measured", samples_ns=own, ratios=ratios.tolist(), median_ratio=middle)
    figures = (f"{np.median(own) / 1e6:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    tables.add("ablation", COLUMNS, (variant.name, variant.of, variant.model, str(case), *figures))
    assert np.allclose(played.stats.stats.data, np.divide(own, 1e9))
