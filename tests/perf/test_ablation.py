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
from edgellm.measure.backends.protocol import F32
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


TERNARY = "rtn ternary, int4 head"


def families(isa: str, model: str, name: str) -> Iterator[Variant]:
    """Multiply-add (`name`, which is another's), lookup, and lookup in rounded tables."""
    options = {"isa": isa, "layout": "lookup"}
    yield Variant(f"{name}, lookup", name, model, options)
    yield Variant(f"{name}, lut8", f"{name}, lookup", model, options | {"lut8": True})


BEST, *OTHERS = reversed(native.isas_available())
VARIANTS = (
    Variant("baseline"),  # a recorded plan, one thread, multiply-add, keys and values in float16, the best instruction set
    Variant("op by op from Python", options={"eager": True}),
    Variant("2 threads", options={"threads": 2}),
    Variant("real time", options={"realtime": True}),
    Variant("2 threads, real time", of="2 threads", options={"threads": 2, "realtime": True}),
    Variant("float32 cache", options={"kv_dtype": "f32"}),
    *(Variant(isa, options={"isa": isa}) for isa in OTHERS),
    *families(BEST, PUBLISHED, "baseline"),
    Variant("ternary", of="ternary", model=TERNARY),
    *families(BEST, TERNARY, "ternary"),
    *(
        variant
        for isa in OTHERS
        for variant in (Variant(f"{isa}, ternary", "ternary", TERNARY, {"isa": isa}), *families(isa, TERNARY, f"{isa}, ternary"))
        if isa != "scalar"
    ),
)
CASES = (bench.Case("tg", 32, depth=128), bench.Case("pp", 128))
DEFAULTS: dict[str, Any] = {"threads": 1, "context": max(case.context for case in CASES), "layout": "multiply-add"}
COLUMNS = ("variant", "instead of", "weights", "test", "median ms", "time over that", "quartiles", "p99/p50", "of that", "logits off")


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
    """A variant's samples: nanoseconds of each call of each round, by case; and what it gives."""

    process: VariantProcess
    logits: F32
    samples_ns: dict[str, list[list[int]]] = field(default_factory=lambda: defaultdict(list))


@pytest.fixture(scope="module")
def measured(
    request: pytest.FixtureRequest, rounds: int, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Measured]]:
    """The variants that were selected, and those that they are set against, by name, after all have taken their turns."""
    items: list[Any] = [item for item in request.session.items if item.path == request.path]
    names = {name for item in items for name in (item.callspec.params["variant"].name, item.callspec.params["variant"].of)}
    with ExitStack() as stack:
        variants = {}
        for variant in (variant for variant in VARIANTS if variant.name in names):
            process = VariantProcess(models.ours(variant.model), DEFAULTS | variant.options)
            stack.callback(process.close)
            variants[variant.name] = Measured(process, process.logits(tmp_path_factory.mktemp("logits") / "logits.npy"))
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
    """The variant's samples, the ratio of its time to that of the one it differs from, round by round, and how far their logits are apart:
    the root mean square of the difference over that of the other's.
    """
    own, other = (measured[name].samples_ns[str(case)] for name in (variant.name, variant.of))
    own_ns, other_ns = ([sum(calls) for calls in rounds] for rounds in (own, other))
    played: Any = benchmark  # its methods carry no types
    played.pedantic(CLOCK.play, setup=iter([((ns,), {}) for ns in own_ns]).__next__, rounds=len(own_ns))
    assert np.allclose(played.stats.stats.data, np.divide(own_ns, 1e9))
    ratios = np.divide(own_ns, other_ns)
    low, middle, high = (float(np.percentile(ratios, q)) for q in (25, 50, 75))
    theirs = measured[variant.of].logits
    off = float(np.sqrt(np.mean((measured[variant.name].logits - theirs) ** 2) / np.mean(theirs**2)))
    changes_bits = {"lut8", "kv_dtype"} & set(variant.options)
    assert (off > 0) == bool(changes_bits), "what is exact gives the very bits, and only that"
    played.extra_info.update(
        {"variant": variant.name, "of": variant.of, "weights": variant.model, "test": str(case)},
        options=DEFAULTS | variant.options,
        warnings=measured[variant.name].process.warnings,
        provenance="measured",
        calls_ns=own,
        ratios=ratios.tolist(),
        median_ratio=middle,
        logits_relative_rms=off,
    )
    spread = [f"{np.percentile(calls, 99) / np.median(calls):.2f}" for calls in (own, other)]
    figures = (f"{np.median(own_ns) / 1e6:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}", *spread, f"{off:.1e}" if off else "0")
    tables.add("ablation", COLUMNS, (variant.name, variant.of, variant.model, str(case), *figures))
