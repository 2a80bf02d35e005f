"""Two models on the same items: by how much a metric differs, and between which bounds, as the items are drawn again together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import EvaluationError
from edgellm.evaluate.task_score import TaskScore
from edgellm.measure.statistics import Interval, bootstrap_interval

F64 = npt.NDArray[np.float64]
Statistic = Callable[[F64], F64]


def _mean(values: F64) -> F64:
    return np.asarray(values.mean(axis=-1))


def _nats_per_unit(values: F64) -> F64:
    """Of pairs that lie one after the other: -log p, and of how many words or bytes."""
    return np.asarray(values[..., 0::2].sum(axis=-1) / values[..., 1::2].sum(axis=-1))


STATISTICS: Mapping[str, Statistic | None] = {
    "perplexity": lambda values: np.exp(_mean(values)),
    "perplexity_bos": lambda values: np.exp(_mean(values)),
    "word_perplexity": lambda values: np.exp(_nats_per_unit(values)),
    "byte_perplexity": lambda values: np.exp(_nats_per_unit(values)),
    "bits_per_byte": lambda values: _nats_per_unit(values) / np.log(2),
    "bleu": None,
}
"""How a metric comes of its items' values [..., items] or pairs [..., 2 items] where it is not their mean; None: of no numbers at all."""


@dataclass(frozen=True)
class Delta:
    """A metric of two models, and the first less the second with its interval of 95%; open where items have no numbers to draw."""

    ours: float
    theirs: float
    interval: Interval

    @property
    def delta(self) -> float:
        """ours - theirs."""
        return self.ours - self.theirs


def deltas(ours: TaskScore, theirs: TaskScore) -> dict[str, Delta]:
    """Metric -> what it differs by; EvaluationError where the two were not asked the same."""
    asked = [(score.task, score.version, score.data, score.examples_shown, score.items) for score in (ours, theirs)]
    if asked[0] != asked[1]:
        raise EvaluationError(f"only answers to the same items can be compared; asked were {asked[0]!r:.200} and {asked[1]!r:.200}")
    return {
        name: Delta(metric.value, theirs.metrics[name].value, _interval(name, metric.values, theirs.metrics[name].values))
        for name, metric in ours.metrics.items()
    }


def _interval(name: str, ours: tuple[object, ...], theirs: tuple[object, ...]) -> Interval:
    statistic = STATISTICS.get(name, _mean)
    if statistic is None:
        return Interval(None, None)
    items = [list(np.abs(np.asarray(values, np.float64)).reshape(len(values), -1)) for values in (ours, theirs)]  # log p -> -log p
    return bootstrap_interval(lambda a, b: statistic(a) - statistic(b), *items)
