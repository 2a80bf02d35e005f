"""lm-eval's own requests, and how its own model `hf` answered them: in float32, on the same weights. Made by `nox -s parity -- --write`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.measure.results import as_json
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "trust.json"
MAX_LENGTH = 1024
ITEMS = {"hellaswag": 500, "wikitext": 1}
"""Task -> how many of its items, from the start, the golden file holds."""


def requests(task: str, items: int) -> list[Any]:
    """lm-eval's instances for the first items of a task: of HellaSwag four each, of WikiText-2 one."""
    from edgellm.evaluate import suite

    loaded = suite.load(task)
    loaded.build_all_requests(limit=items)
    return list(loaded.instances)


def requests_sha256(asked: list[Any]) -> str:
    """Tells whether the golden answers are to the same requests."""
    return hashlib.sha256(json.dumps([request.args for request in asked]).encode()).hexdigest()


def golden(task: str) -> list[Any]:
    """The loglikelihoods, one for each request, in order; the requests are known to be the same."""
    content = json.loads(GOLDEN.read_text())[task]
    assert content["requests_sha256"] == requests_sha256(requests(task, ITEMS[task])), f"{task} asks otherwise than when {GOLDEN} was made"
    answers: list[Any] = content["loglikelihoods"]
    return answers


def write(made_by: Mapping[str, Any], answers: Mapping[str, Sequence[float]]) -> None:
    """Make the golden file of the answers to each task's first items, to a ten-thousandth of a nat."""
    answered = {
        task: {"requests_sha256": requests_sha256(requests(task, ITEMS[task])), "loglikelihoods": [round(value, 4) for value in values]}
        for task, values in answers.items()
    }
    GOLDEN.write_text(as_json({**made_by, "max_length": MAX_LENGTH, **answered}))
