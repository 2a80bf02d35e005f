from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgellm.errors import EvaluationError
from edgellm.evaluate.paired import deltas
from edgellm.evaluate.task_score import Metric, TaskScore


def score(name: str, values: list[Any], value: float = 0.0, **changes: Any) -> TaskScore:
    said: dict[str, Any] = {"task": "t", "version": 1, "data": {}, "examples_shown": 0, "of_items": 9, "items": tuple(range(len(values)))}
    return TaskScore(**said | changes, metrics={name: Metric(value, None, True, tuple(values))})


def test_interval_is_of_the_paired_difference() -> None:
    """Both are right half the time; where one is wrong twice more on the same items, the difference is sure, the accuracies are not."""
    rng = np.random.default_rng(0)
    theirs = (rng.random(400) < 0.5).astype(float)
    ours = theirs.copy()
    ours[np.flatnonzero(theirs)[:20]] = 0
    found = deltas(score("acc", ours.tolist(), ours.mean()), score("acc", theirs.tolist(), theirs.mean()))["acc"]
    assert found.delta == pytest.approx(-0.05)
    low, high = found.interval
    assert low is not None
    assert high is not None
    assert -0.08 < low < -0.05 < high < -0.02


def test_perplexity_is_drawn_as_a_ratio_of_sums() -> None:
    ours, theirs = [(-20.0, 10), (-5.0, 5)], [(-10.0, 10), (-5.0, 5)]
    found = deltas(score("word_perplexity", ours, math.exp(25 / 15)), score("word_perplexity", theirs, math.exp(1)))["word_perplexity"]
    assert found.interval.low == pytest.approx(0)  # the second article alone
    assert found.interval.high == pytest.approx(math.exp(2) - math.exp(1))  # the first alone


def test_texts_have_no_interval() -> None:
    found = deltas(score("bleu", [("a", "b")], 3.0), score("bleu", [("a", "c")], 1.0))["bleu"]
    assert (found.delta, *found.interval) == (2.0, None, None)


@pytest.mark.parametrize("changes", [{"items": (0, 2)}, {"version": 2}, {"data": {"file": "other"}}, {"examples_shown": 5}])
def test_other_items_are_not_compared(changes: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="only answers to the same items can be compared"):
        deltas(score("acc", [1.0, 0.0]), score("acc", [1.0, 0.0], **changes))
