"""A thousand rounds: what a device that answers all day would show, growth of memory and drift of latency."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.measure.backends.protocol import Backend
from edgellm.measure.protocol import Prompt
from edgellm.measure.recorder import LatencyRecorder
from edgellm.measure.statistics import bootstrap_interval

pytestmark = [pytest.mark.perf, pytest.mark.soak]

ROUNDS = 1000
NEW_TOKENS = 16
F64 = npt.NDArray[np.float64]


def drift(before: F64, after: F64) -> F64:
    """The median after over that before, of the last axis."""
    return np.asarray(np.median(after, axis=-1) / np.median(before, axis=-1))


@pytest.mark.budget(p50_drift_at_least=1.03, rss_growth_mib=2)
def test_soak(backend: Backend, prompts: dict[str, Prompt], latency_recorder: LatencyRecorder) -> None:
    """Inter-token latency of the last quarter of the rounds over the first one's, and resident memory of the last tenth less the first's.

    What is judged of the drift is the lower end of its interval: a machine that is slower by itself for a while should fail nothing, and is
    seen in the drift of pure computing. Rounds of which the system told nothing (a gap in telemetry) are left out of the growth.
    """
    latency_recorder.record(backend, prompts["medium"], new_tokens=NEW_TOKENS, rounds=ROUNDS)
    records: list[dict[str, Any]] = latency_recorder.benchmark.extra_info["rounds"]
    quarter = max(1, len(records) // 4)
    first, last = ([record["itl_ns"] for record in part] for part in (records[:quarter], records[-quarter:]))
    interval = bootstrap_interval(drift, first, last, resamples=500)
    latency_recorder.figures.add("p50_drift", float(drift(np.concatenate(first), np.concatenate(last))), interval)
    if interval.low is not None:
        latency_recorder.add(p50_drift_at_least=interval.low)
    resident = [record["telemetry"]["rss_bytes"] for record in records if record["telemetry"]["rss_bytes"] is not None]
    if len(resident) < len(records) // 2:
        latency_recorder.cannot("rss_growth_mib", f"the system told the memory of {len(resident)} rounds of {len(records)}")
        return
    tenth = max(1, len(resident) // 10)
    kept = len(json.dumps(records))  # by this test itself
    growth = float(np.median(resident[-tenth:]) - np.median(resident[:tenth])) - 0.9 * kept  # the medians are 0.9 of the run apart
    latency_recorder.add(rss_growth_mib=growth / 2**20)
