"""A quick look at a model: the perplexity of some windows of a text that is at hand, in the form of a task's score. Needs no lm-eval."""

from __future__ import annotations

import hashlib
import os
import pydoc_data.topics
from collections.abc import Callable, Mapping

from edgellm.evaluate.data import wikitext2_test
from edgellm.evaluate.perplexity import WINDOW, perplexity
from edgellm.evaluate.task_score import Metric, TaskScore
from edgellm.runtime.engine import Engine

WINDOWS = 8
VERSION = 1


def pydoc_topics() -> str:
    """Python's language reference, which every CPython carries; its text changes a little from version to version."""
    return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


def at_hand() -> Mapping[str, Callable[[], str]]:
    """Name -> text: what any Python has, and what EDGELLM_DATA offers where it is set."""
    return {"pydoc_topics": pydoc_topics} | ({"wikitext2_test": wikitext2_test} if os.environ.get("EDGELLM_DATA") else {})


def run(engine: Engine, name: str, windows: int | None = None, progress: bool = True) -> TaskScore:
    """The perplexity of the first windows (default WINDOWS) of a text; each window of WINDOW tokens is an item. Errors as `perplexity`."""
    text = at_hand()[name]()
    ids = engine.tokenizer.encode(text, special=False, add_special_tokens=False)
    scored = perplexity(engine.logits, ids, windows=WINDOWS if windows is None else windows, progress=progress)
    stderr = None if scored.nll_stderr is None else scored.ppl * scored.nll_stderr  # to first order
    return TaskScore(
        task=name,
        version=VERSION,
        data={"text": name, "sha256": hashlib.sha256(text.encode()).hexdigest()},
        examples_shown=0,
        of_items=len(ids) // WINDOW,
        items=tuple(range(len(scored.window_nlls))),
        metrics={"perplexity": Metric(scored.ppl, stderr, higher_is_better=False, values=scored.window_nlls)},
    )
