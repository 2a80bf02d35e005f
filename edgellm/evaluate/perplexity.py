"""Perplexity of a text in fixed windows.

The text is encoded once, as a whole. The ids are cut into windows of W tokens that do not overlap; a last, shorter piece is dropped.
Each window starts from an empty cache, without a BOS token; its W - 1 last tokens are scored, each with the softmax over the logits
after the token before it, in float64. With S the sum of the -log p and N the number of scored tokens, ppl = exp(S / N).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edgellm.errors import InvalidRequestError
from edgellm.measure.statistics import standard_deviation

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

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


def perplexity(
    logits: Callable[[Sequence[int]], F32],
    token_ids: Sequence[int],
    *,
    window: int = WINDOW,
    windows: int | None = None,
    progress: bool = True,
) -> Perplexity:
    """Score the first `windows` windows (all by default); `logits` is `Engine.logits` or any other [W] -> [W, V] from an empty cache.

    Raises InvalidRequestError when `window` or `windows` is out of range, or the text is too short for that many.
    """
    if window < 2:
        raise InvalidRequestError(f"a window of {window} tokens scores nothing; it must hold at least 2")
    available = len(token_ids) // window
    count = available if windows is None else windows
    if not 1 <= count <= available:
        raise InvalidRequestError(f"{count} windows of {window} tokens were asked for; {len(token_ids)} tokens hold {available}")
    starts = tqdm(range(0, count * window, window), desc="perplexity", unit="window", disable=not progress, leave=False)
    means = [_window_nll(logits, token_ids[start : start + window]) for start in starts]
    nll = math.fsum(means) / count
    spread = standard_deviation(means)
    return Perplexity(
        ppl=math.exp(nll),
        nll=nll,
        nll_stderr=None if spread is None else spread / math.sqrt(count),
        tokens=count * (window - 1),
        window_nlls=tuple(means),
    )


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


def _window_nll(logits: Callable[[Sequence[int]], F32], ids: Sequence[int]) -> float:
    nlls = negative_log_likelihoods(logits(ids)[:-1], np.asarray(ids[1:]))
    return float(nlls.mean())
