"""The accuracies of a scheme beside the baseline's: the same items of multiple-choice tasks, and the difference paired item by item.

Of each task the first items of `evaluate.suite`'s shuffle are asked. Its figure is acc_norm, the choice by loglikelihood per character,
where the task has that, else acc. "all" pools the items of all tasks, which tells schemes apart that no single task does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.evaluate import suite
from edgellm.evaluate.adapter import EdgeLM
from edgellm.evaluate.answers import Answers
from edgellm.evaluate.cache import Cache, Key
from edgellm.evaluate.paired import deltas
from edgellm.evaluate.scorer import Scorer
from edgellm.evaluate.task_score import Metric, TaskScore
from edgellm.measure.results import Record
from edgellm.measure.statistics import bootstrap_interval

F64 = npt.NDArray[np.float64]
Scores = Mapping[str, TaskScore]
"""Task -> what a model scored in it."""

TASKS = ("hellaswag", "arc_easy", "arc_challenge", "piqa", "winogrande", "openbookqa")
ALL = "all"


def scores(scorer: Scorer, sha256: str, settings: Mapping[str, Any], items: int, cache: Cache, progress: bool) -> Scores:
    """What the model scores on the first `items` of each task. Its answers are kept, as those of the model file with this sha256 under
    these settings. Errors as in `suite.run`.
    """
    lm, found = EdgeLM(scorer, progress=progress), {}
    for task in TASKS:
        with Answers(cache.folder, Key(sha256, task, suite.PROMPTS, settings)) as answers:
            found[task] = suite.run(lm, task, items, answers)
    return found


def compared(ours: Scores, baseline: Scores) -> list[Record]:
    """One for each task, then one for all. Shares of items, their intervals of 95%, and of each item whether it was answered rightly."""
    tasks = [
        {"task": task, "version": score.version, "data": dict(score.data), "of_items": score.of_items} | _compared(score, baseline[task])
        for task, score in ours.items()
    ]
    return [*tasks, {"task": ALL} | _compared(_pooled(ours), _pooled(baseline))]


def _compared(ours: TaskScore, baseline: TaskScore) -> Record:
    name = _metric(ours)
    values = [int(value) for value in ours.metrics[name].values]
    delta = deltas(ours, baseline)[name]
    return {
        "metric": name,
        "items": len(values),
        "accuracy": delta.ours,
        "interval": list(bootstrap_interval(_mean, [[value] for value in values])),
        "baseline_accuracy": delta.theirs,
        "delta": delta.delta,
        "delta_interval": list(delta.interval),
        "values": values,
    }


def _pooled(of: Scores) -> TaskScore:
    """All tasks as one, by each one's own metric."""
    values = tuple(value for score in of.values() for value in score.metrics[_metric(score)].values)
    right = Metric(float(np.mean(values)), None, higher_is_better=True, values=values)
    items = tuple(item for score in of.values() for item in score.items)
    return TaskScore(ALL, None, {}, 0, sum(score.of_items for score in of.values()), items, {"acc": right})


def _metric(score: TaskScore) -> str:
    return "acc_norm" if "acc_norm" in score.metrics else "acc"


def _mean(values: F64) -> F64:
    return np.asarray(values.mean(axis=-1))
