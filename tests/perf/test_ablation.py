"""What each choice gives: variants of the engine that differ in one thing, all taking turns, as pytest-benchmark's JSON
(`nox -s perf -- ablation`).

pytest-benchmark times one test after the other, and a shared machine changes meanwhile. So all variants are timed first, in turn within
every round, and each test then gives pytest-benchmark its samples, on a clock that shows nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from tqdm import tqdm

from edgellm.measure import bench
from edgellm.ops import native
from tests.perf.models import PUBLISHED, Models
from tests.perf.tables import Tables
from tests.perf.variant_process import VariantProcess


@dataclass(frozen=True)
class Variant:
    """An engine, and the one that it differs from in one thing; `options` as `VariantProcess` takes them."""

    name: str
    of: str = "baseline"
    model: str = PUBLISHED
    options: dict[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("baseline"),  # a recorded plan, one thread, keys and values in float16, the best instruction set
    Variant("op by op from Python", options={"eager": True}),
    Variant("2 threads", options={"threads": 2}),
    Variant("real time", options={"realtime": True}),
    Variant("2 threads, real time", of="2 threads", options={"threads": 2, "realtime": True}),
    Variant("float32 cache", options={"kv_dtype": "f32"}),
    *(Variant(isa, options={"isa": isa}) for isa in native.isas_available()[:-1]),
)
CASES = (bench.Case("tg", 32, depth=128), bench.Case("pp", 128))
DEFAULTS: dict[str, Any] = {"threads": 1, "context": max(case.context for case in CASES)}
COLUMNS = ("variant", "instead of", "weights", "test", "median ms", "time over that", "quartiles", "p99/p50", "of that")


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
pytestmark = [pytest.mark.perf, pytest.mark.ablation, pytest.mark.benchmark(timer=CLOCK)]


@dataclass
class Measured:
    """A variant's samples: nanoseconds of each call of each round, by case."""

    process: VariantProcess
    samples_ns: dict[str, list[list[int]]] = field(default_factory=lambda: defaultdict(list))


@pytest.fixture(scope="module")
def measured(rounds: int, models: Models) -> Iterator[dict[str, Measured]]:
    """Every variant by its name, after all have taken their turns."""
    with ExitStack() as stack:
        variants = {}
        for variant in VARIANTS:
            process = VariantProcess(models.ours(variant.model), DEFAULTS | variant.options)
            stack.callback(process.close)
            variants[variant.name] = Measured(process)
        for number in tqdm(range(1 + rounds), desc=f"{len(variants)} variants", unit="round", leave=False):
            for case in CASES:
                for one in variants.values():
                    calls_ns = one.process.run(case)
                    if number > 0:
                        one.samples_ns[str(case)].append(calls_ns)
        yield variants


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_ablation(
    variant: Variant, case: bench.Case, measured: Mapping[str, Measured], benchmark: BenchmarkFixture, tables: Tables
) -> None:
    """The variant's samples, and the ratio of its time to that of the one it differs from, round by round."""
    own, other = (measured[name].samples_ns[str(case)] for name in (variant.name, variant.of))
    own_ns, other_ns = ([sum(calls) for calls in rounds] for rounds in (own, other))
    played: Any = benchmark  # its methods carry no types
    played.pedantic(CLOCK.play, setup=iter([((ns,), {}) for ns in own_ns]).__next__, rounds=len(own_ns))
    assert np.allclose(played.stats.stats.data, np.divide(own_ns, 1e9))
    ratios = np.divide(own_ns, other_ns)
    low, middle, high = (float(np.percentile(ratios, q)) for q in (25, 50, 75))
    played.extra_info.update(
        {"variant": variant.name, "of": variant.of, "weights": variant.model, "test": str(case)},
        options=DEFAULTS | variant.options,
        warnings=measured[variant.name].process.warnings,
        provenance="measured",
        calls_ns=own,
        ratios=ratios.tolist(),
        median_ratio=middle,
    )
    spread = [f"{np.percentile(calls, 99) / np.median(calls):.2f}" for calls in (own, other)]
    figures = (f"{np.median(own_ns) / 1e6:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}", *spread)
    tables.add("ablation", COLUMNS, (variant.name, variant.of, variant.model, str(case), *figures))
