"""What is done in a measurement, the same for every engine: which prompts, and what a round is.

A prompt is real text (the Declaration of Independence, 1776) of 8, 128 or 512 tokens, as the engine's own tokenizer counts them. Each
round gets another part of it, because servers keep what they know of the prompt before: the parts begin at words drawn with a fixed
seed, so two runs of one model see the same texts.
"""

from __future__ import annotations

import gc
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

from edgellm.errors import InvalidRequestError
from edgellm.measure.backends.protocol import Backend, BackendFailedError

LENGTHS: Mapping[str, int] = {"short": 8, "medium": 128, "long": 512}
"""Tokens of a prompt, by its name."""

TEXTS = 128
"""Different texts of a prompt: one for each of 100 rounds and their warm-up. Later rounds begin anew, when a server's cache of a few texts
has lost the first one.
"""

SEED = 20
TOKENS_PER_WORD = 1.3
"""Where an engine does not count: what tokenizers of this size make of English, roughly."""

ROUNDS: Mapping[str, int] = {"throughput": 100, "latency": 100, "jitter": 100, "memory": 10, "cold_start": 10, "energy": 50}
"""How many rounds a figure needs at least; more where a percentile's interval is asked for (see `statistics.rounds_needed`)."""

WARMUP_ROUNDS = 5
"""Rounds that come before, and are discarded: page tables, caches and clock frequencies settle in them."""

SETTLING_TOKENS = 2

NEW_TOKENS = 32
"""Tokens that a round asks for."""


@dataclass(frozen=True)
class Prompt:
    """Texts of one length.

    name:    "short", "medium", "long"
    tokens:  what each is for the model
    counted: by the engine's tokenizer; else `tokens` is an estimate from the words
    texts:   round i takes texts[i % len(texts)]
    """

    name: str
    tokens: int
    counted: bool
    texts: tuple[str, ...]

    def text(self, round_number: int) -> str:
        """Of this round."""
        return self.texts[round_number % len(self.texts)]


@dataclass(frozen=True)
class Round:
    """What one prompt took, in nanoseconds from its submission.

    ttft_ns: to the first token, tokenisation included
    itl_ns:  inter-token latencies, [tokens - 1]
    e2e_ns:  to the last token
    """

    ttft_ns: int
    itl_ns: list[int]
    e2e_ns: int

    @property
    def tokens(self) -> int:
        """How many tokens came."""
        return 1 + len(self.itl_ns)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def make_prompts(count_tokens: Callable[[str], int | None]) -> dict[str, Prompt]:
    """The prompts by their names, cut for whoever counts tokens like that (`Backend.count_tokens`)."""
    return {name: _cut(name, tokens, count_tokens) for name, tokens in LENGTHS.items()}


def settle(backend: Backend, prompt: Prompt, round_number: int) -> None:
    """Before a round, untimed: what the harness left behind is collected, and the backend is warmed by a few words of another text.

    What came between the rounds (probes, other engines) went over the caches, and an engine in use is warm. Collecting comes first, because
    it walks through the caches too; the words begin no prompt, which a server might keep.
    """
    gc.collect()
    for _ in backend.generate(" ".join(prompt.text(round_number + 1).split()[1:7]), SETTLING_TOKENS):
        pass


def run_round(backend: Backend, text: str, max_tokens: int, clock: Callable[[], int] = time.perf_counter_ns) -> Round:
    """Submit a text and wait for its tokens. BackendFailedError if none comes."""
    start = clock()
    times = [clock() for _ in backend.generate(text, max_tokens)]
    if not times:
        raise BackendFailedError(f"{backend.name} gave no token for a prompt of {len(text.split())} words and max_tokens {max_tokens}")
    return Round(times[0] - start, [after - before for before, after in pairwise(times)], times[-1] - start)


@cache
def _words() -> list[str]:
    return resources.files("edgellm.measure").joinpath("prompts.txt").read_text(encoding="utf-8").split()


def _cut(name: str, tokens: int, count_tokens: Callable[[str], int | None]) -> Prompt:
    """Texts of exactly so many tokens where the engine counts them; from each place, in an order that the seed gives."""
    words = _words()
    starts = list(range(len(words)))
    random.Random(SEED).shuffle(starts)
    if count_tokens(words[0]) is None:
        length = max(1, round(tokens / TOKENS_PER_WORD))
        cut = [" ".join(words[start : start + length]) for start in starts if start + length <= len(words)]
        return Prompt(name, tokens, counted=False, texts=tuple(cut[:TEXTS]))
    texts: list[str] = []
    for start in starts:
        text = _text_of(words[start:], tokens, count_tokens)
        if text:
            texts.append(text)
        if len(texts) == TEXTS:
            break
    if not texts:
        of_one = f"its tokenizer makes {count_tokens(words[0])} of the word {words[0]!r}"
        raise InvalidRequestError(f"no part of the text is {tokens} tokens for this model; {of_one}")
    return Prompt(name, tokens, counted=True, texts=tuple(texts))


def _text_of(words: list[str], tokens: int, count_tokens: Callable[[str], int | None]) -> str | None:
    """The first words that together are so many tokens; None where they jump over it."""

    def count(length: int) -> int:
        return count_tokens(" ".join(words[:length])) or 0

    length = bisect_left(range(min(len(words), tokens) + 1), tokens, key=count)
    return " ".join(words[:length]) if length <= min(len(words), tokens) and count(length) == tokens else None
