"""Joules per token of a backend, where somebody here can measure them (`edgellm energy` says who), or a power meter's log comes later."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from edgellm.measure.backends.protocol import Backend
from edgellm.measure.protocol import NEW_TOKENS, Prompt, run_round
from edgellm.measure.recorder import LatencyRecorder

pytestmark = pytest.mark.perf


def test_energy(backend: Backend, prompts: dict[str, Prompt], energy_runs: Callable[..., None], latency_recorder: LatencyRecorder) -> None:
    """The idle machine first, then runs of the medium prompt; each token of an answer bears its part of the prompt's energy."""
    texts = count()
    energy_runs(lambda: run_round(backend, prompts["medium"].text(next(texts)), NEW_TOKENS).tokens)
    latency_recorder.note(backend={"name": backend.name, "threads": backend.threads, **backend.description()})
