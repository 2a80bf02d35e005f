"""A thousand rounds: what a device that answers all day would show, growth of memory and drift of latency."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgellm.measure.backends import registry
from edgellm.measure.backends.protocol import Backend
from edgellm.measure.compare import Comparison, compare
from edgellm.measure.protocol import Prompt, run_round, settle
from edgellm.measure.pytest_fixtures import CONTEXT
from edgellm.measure.recorder import LatencyRecorder

pytestmark = [pytest.mark.perf, pytest.mark.soak]

ROUNDS = 1000
NEW_TOKENS = 16
PAIRS = 60
SETTLE_S = 0.05
"""Rest before each turn: threads spin for a while after their work, and would be in the other's way."""

Records = list[dict[str, Any]]


@pytest.mark.budget(aged_over_fresh_at_least=1.03, rss_growth_mib=2)
def test_soak(
    backend: Backend, model: str, prompts: dict[str, Prompt], latency_recorder: LatencyRecorder, pytestconfig: pytest.Config
) -> None:
    """After the rounds the engine takes turns with one that was loaded just now, and is to be no slower: so a machine that got slower by
    itself is not taken for an engine that did. What the medians of the run's last quarter are of its first's is only shown, the engine's
    beside the machine's.
    """
    latency_recorder.record(backend, prompts["medium"], new_tokens=NEW_TOKENS, rounds=ROUNDS)
    records: Records = latency_recorder.benchmark.extra_info["rounds"]
    latency_recorder.add(
        itl_drift=drift(records, lambda record: float(np.median(record["itl_ns"]))),
        spin_drift=drift(records, lambda record: float(np.median(record["noise"]["spin_ns"]))),
    )
    if records[0]["noise"]["read_ns"] is not None:
        latency_recorder.add(read_drift=drift(records, lambda record: record["noise"]["read_ns"]))
    add_growth(latency_recorder, records)
    fresh = registry.load(pytestconfig.getoption("--backend"), model, threads=backend.threads or 1, context=CONTEXT)
    if fresh.process_id in (None, backend.process_id) and fresh.process_id != os.getpid():
        latency_recorder.cannot("aged_over_fresh_at_least", f"{backend.name} is a server that runs already: there is no fresh one")
        return
    compared = take_turns(fresh, backend, prompts["medium"])
    fresh.unload()
    latency_recorder.note(fresh_and_aged=compared.record())
    aged = compared.ratios["p50"]
    assert aged.ratio is not None
    assert aged.low is not None
    latency_recorder.add(aged_over_fresh=aged.ratio, aged_over_fresh_at_least=aged.low)


def drift(records: Records, value: Callable[[dict[str, Any]], float]) -> float:
    """The median over the last quarter of the rounds over that of the first."""
    quarter = max(1, len(records) // 4)
    first, last = (np.median([value(record) for record in part]) for part in (records[:quarter], records[-quarter:]))
    return float(last / first)


def take_turns(fresh: Backend, aged: Backend, prompt: Prompt) -> Comparison:
    """Both under the protocol of a round; the inter-token latencies of each."""

    def turn(backend: Backend) -> Callable[[], list[int]]:
        def one_round() -> list[int]:
            time.sleep(SETTLE_S)
            settle(backend, prompt, 0)
            return run_round(backend, prompt.text(0), NEW_TOKENS).itl_ns

        return one_round

    return compare(turn(fresh), turn(aged), PAIRS)


def add_growth(latency_recorder: LatencyRecorder, records: Records) -> None:
    """Resident memory over the last tenth of the rounds less that over the first; what this test keeps of the rounds is in it, some hundred
    kilobytes. Rounds of which the system told nothing (a gap in telemetry) are left out.
    """
    resident = [record["telemetry"]["rss_bytes"] for record in records if record["telemetry"]["rss_bytes"] is not None]
    if len(resident) < len(records) // 2:
        latency_recorder.cannot("rss_growth_mib", f"the system told the memory of {len(resident)} rounds of {len(records)}")
        return
    tenth = max(1, len(resident) // 10)
    latency_recorder.add(rss_growth_mib=float(np.median(resident[-tenth:]) - np.median(resident[:tenth])) / 2**20)
