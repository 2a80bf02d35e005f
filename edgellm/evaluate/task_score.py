"""What a model scored in a task, item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A figure of a task: `values` has one for each item, and `stderr` is None where nobody knows it."""

    value: float
    stderr: float | None
    higher_is_better: bool
    values: tuple[Any, ...]


@dataclass(frozen=True)
class TaskScore:
    """What a model scored in a task.

    data:           the file and its sha256, or the data set on the hub
    examples_shown: solved ones in each prompt
    items:          which of the task's records, counted from 0, in order; there are `of_items`
    metrics:        by lm-eval's names: acc, acc_norm, exact_match, bleu, word_perplexity, ...
    parts:          where the task says which field tells its records apart: value -> (items, mean of the first metric)
    """

    task: str
    version: Any
    data: Mapping[str, str]
    examples_shown: int
    of_items: int
    items: tuple[int, ...]
    metrics: Mapping[str, Metric]
    parts: Mapping[str, tuple[int, float]] = field(default_factory=dict)
