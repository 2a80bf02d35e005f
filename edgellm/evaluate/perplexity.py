"""Perplexity of a text in fixed windows.

The text is encoded once, as a whole. The ids are cut into windows of W tokens that do not overlap; a last, shorter piece is dropped.
Each window starts from an empty cache, with or without a BOS token before it; either way its W - 1 last tokens are scored, so that the two
are of the same tokens. With S the sum of the -log p and N the number of scored tokens, ppl = exp(S / N).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edgellm.errors import InvalidRequestError
from edgellm.measure.statistics import Interval, bootstrap_interval, standard_deviation
from edgellm.ops.scoring import Scores

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Score = Callable[[Sequence[int], int], Scores]
"""`Engine.score`, or what does the same: the scores of ids[start:]."""

WINDOW = 1024
ROWS_AT_ONCE = 64
"""Logit rows that are widened to float64 together: 25 MB for 49152 tokens."""


@dataclass(frozen=True)
class Perplexity:
    """The result over all windows: `nll` is the mean of -log p in nats; `nll_stderr` (from the windows' means) is None for one window."""

    ppl: float
    nll: float
    nll_stderr: float | None
    tokens: int
    window_nlls: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """One perplexity over another, and its interval of 95%."""

    value: float
    interval: Interval


def perplexity(
    score: Score,
    token_ids: Sequence[int],
    *,
    window: int = WINDOW,
    windows: int | None = None,
    bos_id: int | None = None,
    known: Sequence[float] = (),
    keep: Callable[[Sequence[float]], object] = lambda _: None,
    progress: bool = True,
) -> Perplexity:
    """Score the first `windows` windows (all by default), each after `bos_id` if there is one.

    known: the means of -log p of the first windows that an earlier run had; `keep` is handed those and the new ones after each window.
    Raises what `windows_of` raises.
    """
    pieces = windows_of(token_ids, window, windows)
    prefix = [] if bos_id is None else [bos_id]
    means = list(known[: len(pieces)])
    for piece in tqdm(pieces[len(means) :], desc="perplexity", unit="window", disable=not progress, leave=False):
        means.append(float(score([*prefix, *piece], len(prefix) + 1).nll.mean()))
        keep(means)
    return of_windows(means, window)


def of_windows(means: Sequence[float], window: int = WINDOW) -> Perplexity:
    """The perplexity of windows whose means of -log p these are."""
    nll, spread = math.fsum(means) / len(means), standard_deviation(means)
    return Perplexity(
        ppl=math.exp(nll),
        nll=nll,
        nll_stderr=None if spread is None else spread / math.sqrt(len(means)),
        tokens=len(means) * (window - 1),
        window_nlls=tuple(means),
    )


def windows_of(token_ids: Sequence[int], window: int, windows: int | None) -> list[Sequence[int]]:
    """The first `windows` windows; InvalidRequestError when `window` or `windows` is out of range, or the text too short for that many."""
    if window < 2:
        raise InvalidRequestError(f"a window of {window} tokens scores nothing; it must hold at least 2")
    available = len(token_ids) // window
    count = available if windows is None else windows
    if not 1 <= count <= available:
        raise InvalidRequestError(f"{count} windows of {window} tokens were asked for; {len(token_ids)} tokens hold {available}")
    return [token_ids[start : start + window] for start in range(0, count * window, window)]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of the perplexities of two models, by the means of -log p of the same windows; the windows are drawn again in pairs, so that what
    makes a window hard for both cancels.
    """
    return Ratio(
        math.exp(math.fsum(ours) / len(ours) - math.fsum(theirs) / len(theirs)),
        bootstrap_interval(_ratio, [[nll] for nll in ours], [[nll] for nll in theirs]),
    )


def from_logits(logits: Callable[[Sequence[int]], F32]) -> Score:
    """Scores by whoever gives only logits, [L] -> [L, V] from an empty cache: other engines, other arithmetic."""

    def score(token_ids: Sequence[int], start: int) -> Scores:
        rows, targets = logits(token_ids[:-1])[start - 1 :], np.asarray(token_ids[start:])
        return Scores(negative_log_likelihoods(rows, targets), rows.argmax(axis=1) == targets)

    return score


def negative_log_likelihoods(logits: F32, targets: npt.NDArray[np.integer]) -> F64:
    """-log softmax(logits [L, V])[targets [L]], each [L], in float64; the maximum is subtracted first, so that nothing overflows."""
    nlls = np.empty(len(targets))
    for start in range(0, len(targets), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        shifted = logits[rows].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(shifted, targets[rows, None], axis=1)[:, 0]
        nlls[rows] = np.log(np.exp(shifted).sum(axis=1)) - chosen
    return nlls


def _ratio(ours: F64, theirs: F64) -> F64:
    return np.asarray(np.exp(ours.mean(axis=-1) - theirs.mean(axis=-1)))
