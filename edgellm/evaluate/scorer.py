"""What lm-eval's adapter asks for loglikelihoods: an `Engine`, or another engine of which no more is known than its logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm.evaluate.perplexity import from_logits, negative_log_likelihoods
from edgellm.ops.scoring import Scores
from edgellm.text.tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]


class Scorer(Protocol):
    """A model that scores token ids. context: how many it takes; chat_template: as `Engine` has it."""

    path: Path
    context: int
    tokenizer: Tokenizer
    chat_template: str | None

    def score(self, token_ids: Sequence[int], start: int = 1) -> Scores:
        """As `Engine.score`."""

    def score_next(self, token_ids: Sequence[int], candidates: Sequence[int]) -> Scores:
        """As `Engine.score_next`."""


@dataclass
class LogitsScorer:
    """A `Scorer` by logits, [L] -> [L, V], each time from an empty cache. tokenizer: the model's own."""

    path: Path
    context: int
    tokenizer: Tokenizer
    logits: Callable[[Sequence[int]], F32]
    chat_template: str | None = None

    def score(self, token_ids: Sequence[int], start: int = 1) -> Scores:
        """As `Engine.score`; nothing is checked."""
        return from_logits(self.logits)(token_ids, start)

    def score_next(self, token_ids: Sequence[int], candidates: Sequence[int]) -> Scores:
        """As `Engine.score_next`; nothing is checked."""
        last, targets = self.logits(token_ids)[-1:], np.asarray(candidates)
        nll = [negative_log_likelihoods(last, targets[i : i + 1]) for i in range(len(targets))]
        return Scores(np.concatenate(nll), last.argmax() == targets)
