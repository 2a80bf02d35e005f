"""How likely a model takes the tokens of a text to be, in C."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError, NativeError
from edgellm.ops.compiled import ffi, lib, pointer
from edgellm.ops.interface import F32, I32
from edgellm.ops.native import ISAS, Pool

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Scores(NamedTuple):
    """Of n tokens, given what precedes each: `nll` float64 [n], -log p in nats; `greedy` bool [n], whether it was the most likely one (of
    equals, the one of the lowest id). `nll` is NaN where the logits hold NaN or an infinity.
    """

    nll: F64
    greedy: Flags


def score(logits: F32, targets: I32, pool: Pool, isa: str) -> Scores:
    """The scores of targets int32 [L], each by its row of logits float32 [L, V]: the same bits with every instruction set and any number
    of threads. InvalidRequestError for other types, shapes and ids; NativeError where the instruction set can't run here.
    """
    if logits.dtype != np.float32 or logits.ndim != 2 or targets.dtype != np.int32 or targets.shape != logits.shape[:1]:
        found = f"{logits.dtype} {logits.shape} and {targets.dtype} {targets.shape}"
        raise InvalidRequestError(f"logits float32 [L, V] and targets int32 [L] were expected, not {found}")
    rows, vocabulary = logits.shape
    if rows and not 0 <= targets.min() <= targets.max() < vocabulary:
        raise InvalidRequestError(f"the targets hold ids outside the vocabulary of {vocabulary} tokens")
    scores = Scores(np.empty(rows), np.empty(rows, np.bool_))
    arguments = ffi.new("el_scores *", {
        "logits": pointer("float *", logits), "targets": pointer("int32_t *", targets),
        "nll": pointer("double *", scores.nll), "greedy": pointer("uint8_t *", scores.greedy),
        "rows": rows, "vocabulary": vocabulary,
    })  # fmt: skip
    if lib.el_score(ISAS.index(isa), pool.pointer, arguments):
        raise NativeError(f"logits can't be scored by {isa!r} on {pool.threads} threads: it can't run here, or this is a forked process")
    return scores
