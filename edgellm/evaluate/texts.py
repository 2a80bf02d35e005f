"""A quick look at a model: the perplexity of some windows of the texts at hand, in the form of a task's score. Needs no lm-eval."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from edgellm.evaluate import data
from edgellm.evaluate.perplexity import WINDOW, Perplexity, perplexity
from edgellm.evaluate.task_score import Metric, TaskScore
from edgellm.runtime.engine import Engine

WINDOWS = 8
VERSION = 2


def at_hand() -> Sequence[str]:
    """What any Python has, and what EDGELLM_DATA offers where it is set."""
    return data.TEXTS if os.environ.get("EDGELLM_DATA") else (data.SMOKE,)


def run(engine: Engine, name: str, windows: int | None = None, progress: bool = True) -> TaskScore:
    """The perplexity of the first windows (default WINDOWS) of a text, and where the model has a BOS token also with one before each. A
    window is an item: of WINDOW tokens, or as many as the context holds. Errors as `data.text` and `perplexity`.
    """
    text, bos_id = data.text(name), engine.tokenizer.bos_id
    ids = engine.tokenizer.encode(text, special=False, add_special_tokens=False)
    starts = {"perplexity": None} | ({} if bos_id is None else {"perplexity_bos": bos_id})
    count = WINDOWS if windows is None else windows
    window = min(WINDOW, engine.context)
    scored = {
        metric: perplexity(engine.score, ids, window=window, windows=count, bos_id=start, progress=progress)
        for metric, start in starts.items()
    }
    return TaskScore(
        task=name,
        version=VERSION,
        data={"text": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "window_tokens": str(window)},
        examples_shown=0,
        of_items=len(ids) // window,
        items=tuple(range(count)),
        metrics={metric: _metric(found) for metric, found in scored.items()},
    )


def _metric(found: Perplexity) -> Metric:
    stderr = None if found.nll_stderr is None else found.ppl * found.nll_stderr  # to first order
    return Metric(found.ppl, stderr, higher_is_better=False, values=found.window_nlls)
