"""How likely a model takes the tokens of a text to be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError
from edgellm.ops.interface import F32, I32

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ROWS_AT_ONCE = 32
"""Logit rows that are widened to float64 together: 13 MB for 49152 tokens."""


class Scores(NamedTuple):
    """Of n tokens, given what precedes each: `nll` float64 [n], -log p in nats; `greedy` bool [n], whether it was the most likely one (of
    equals, the one of the lowest id). `nll` is NaN where the logits hold NaN or an infinity.
    """

    nll: F64
    greedy: Flags


def score(logits: F32, targets: I32) -> Scores:
    """The scores of targets int32 [L], each by its row of logits float32 [L, V]; InvalidRequestError for other types, shapes and ids."""
    if logits.dtype != np.float32 or logits.ndim != 2 or targets.dtype != np.int32 or targets.shape != logits.shape[:1]:
        found = f"{logits.dtype} {logits.shape} and {targets.dtype} {targets.shape}"
        raise InvalidRequestError(f"logits float32 [L, V] and targets int32 [L] were expected, not {found}")
    if len(targets) and not 0 <= targets.min() <= targets.max() < logits.shape[1]:
        raise InvalidRequestError(f"the targets hold ids outside the vocabulary of {logits.shape[1]} tokens")
    nlls = np.empty(len(targets))
    for start in range(0, len(targets), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        finite = np.asarray(np.isfinite(logits[rows]).all(axis=1))
        wide = np.where(finite[:, None], logits[rows], 0).astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(wide, targets[rows, None], axis=1)[:, 0]
        nlls[rows] = np.where(finite, np.log(np.exp(wide).sum(axis=1)) - chosen, np.nan)
    return Scores(nlls, logits.argmax(axis=1) == targets)
