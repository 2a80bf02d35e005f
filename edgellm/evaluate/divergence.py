"""How far a model's predictions are from a baseline's: KL(baseline || model) of each token's distribution, and how often the two disagree
on the most likely token.

Far more sensitive than perplexity, which looks at one probability of a token's tens of thousands: a few thousand tokens tell apart models
whose perplexities differ by less than a text does from the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import NonFiniteError
from edgellm.measure.statistics import Interval, bootstrap_interval

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_Statistic = Callable[[F64], F64]

ROWS_AT_ONCE = 32
"""Logit rows that are widened to float64 together: 13 MB for 49152 tokens, of each model."""


@dataclass(frozen=True)
class WindowDivergence:
    """Of a window's tokens: KL(baseline || model) in nats, and whether the most likely tokens differ."""

    kl: tuple[float, ...]
    flipped: tuple[bool, ...]


@dataclass(frozen=True)
class Figure:
    """A figure of all tokens, and its interval of 95% as windows are drawn again."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Divergence:
    """Over all windows; KL in nats per token, `flip_rate` a share of the tokens."""

    tokens: int
    kl_mean: Figure
    kl_median: Figure
    kl_p99: Figure
    flip_rate: Figure


def window_divergence(baseline: F32, model: F32) -> WindowDivergence:
    """Of the logits that both give for a window, float32 [L, V] each; NonFiniteError where they hold NaN or an infinity."""
    kl = np.empty(len(baseline))
    for start in range(0, len(baseline), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        log_p, log_q = _log_softmax(baseline[rows]), _log_softmax(model[rows])
        kl[rows] = np.einsum("lv,lv->l", np.exp(log_p), log_p - log_q)
    if not np.isfinite(kl).all():
        at = int(np.argmin(np.isfinite(kl)))
        raise NonFiniteError(f"the logits after position {at} of a window hold NaN or an infinity: they are no distribution to compare")
    flipped = baseline.argmax(axis=1) != model.argmax(axis=1)
    return WindowDivergence(tuple(np.maximum(kl, 0).tolist()), tuple(flipped.tolist()))  # of equals rounding gives -1e-16


def divergence(windows: Iterable[WindowDivergence]) -> Divergence:
    """What windows, at least one, say together."""
    kl, flipped = zip(*((np.array(window.kl), np.array(window.flipped, np.float64)) for window in windows), strict=True)
    return Divergence(
        tokens=sum(map(len, kl)),
        kl_mean=_figure(_mean, kl),
        kl_median=_figure(_median, kl),
        kl_p99=_figure(_p99, kl),
        flip_rate=_figure(_mean, flipped),
    )


def _figure(statistic: _Statistic, windows: tuple[F64, ...]) -> Figure:
    return Figure(float(statistic(np.concatenate(windows))), bootstrap_interval(statistic, windows))


def _log_softmax(logits: F32) -> F64:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def _mean(values: F64) -> F64:
    return np.asarray(values.mean(axis=-1))


def _median(values: F64) -> F64:
    return np.asarray(np.median(values, axis=-1))


def _p99(values: F64) -> F64:
    return np.asarray(np.percentile(values, 99, axis=-1))
