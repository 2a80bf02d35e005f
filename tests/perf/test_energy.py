"""Joules per token of a backend, where somebody here can measure them (`edgellm energy` says who)."""

from __future__ import annotations

from itertools import count

import pytest

from edgellm.measure.backends.protocol import Backend
from edgellm.measure.energy.meter import EnergyMeter
from edgellm.measure.energy.runs import measure_runs
from edgellm.measure.protocol import NEW_TOKENS, ROUNDS, Prompt, run_round
from edgellm.measure.recorder import LatencyRecorder

pytestmark = pytest.mark.perf


def test_energy(backend: Backend, prompts: dict[str, Prompt], energy: EnergyMeter, latency_recorder: LatencyRecorder) -> None:
    """The idle machine first, then runs of the medium prompt; each token of an answer bears its part of the prompt's energy."""
    rounds, texts = latency_recorder.rounds.of(ROUNDS["energy"]), count()

    def answer() -> int:
        return run_round(backend, prompts["medium"].text(next(texts)), NEW_TOKENS).tokens

    (runs,) = latency_recorder.time("energy", lambda: measure_runs(energy, answer, rounds), rounds=1)
    described = {"name": backend.name, "threads": backend.threads, **backend.description()}
    latency_recorder.note(backend=described, energy=runs.record())
    record = runs.record()
    for figure in ("joules_per_token", "net_joules_per_token", "idle_watts", "active_watts"):
        if record[figure] is None:
            latency_recorder.cannot(figure, "; ".join(runs.problems) or str(runs.idle.problem))
        else:
            latency_recorder.add(**{figure: record[figure]})
