"""Calibration text as windows of token ids, drawn by a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError
from edgellm.quantize.calibrate import CalibrationText
from edgellm.text.tokenizer import Tokenizer

Ids = npt.NDArray[np.int64]


def encode(tokenizer: Tokenizer, texts: Sequence[CalibrationText]) -> list[Ids]:
    """The ids of each text."""
    return [np.array(tokenizer.encode(text.text, special=False, add_special_tokens=False), np.int64) for text in texts]


def windows(texts: Sequence[Ids], count: int, length: int, seed: int, bos_id: int | None, vocabulary: int) -> Ids:
    """`count` windows [count, length], as many from each text, from places that the seed draws.

    The first token is BOS in one half of them, any of the vocabulary in a quarter, and what the text has in the rest: attention sinks
    on it, whatever it is, so a model that has only met one first token breaks with others. InvalidRequestError: a text is too short.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        ids = texts[i % len(texts)]
        if len(ids) < length:
            raise InvalidRequestError(f"a calibration text has {len(ids)} tokens; a window takes {length}: give a longer one")
        start = rng.integers(len(ids) - length + 1)
        row = ids[start : start + length].copy()
        kind = (i // len(texts)) % 4
        if kind % 2 == 0 and bos_id is not None:
            row[0] = bos_id
        elif kind == 1:
            row[0] = rng.integers(vocabulary)
        rows.append(row)
    return np.stack(rows)
