"""The token loop: prefill, then sample, show, decode, until something ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import CacheReplacedError, InvalidRequestError
from edgellm.runtime.sampling import Sampler, SamplingParams
from edgellm.text.stop import StopStrings
from edgellm.text.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length", "context"]


class GeneratedToken(NamedTuple):
    """One sampled token.

    id:      also the end-of-sequence token comes as one
    text:    the text that became certain with it: may be empty, or hold characters of the tokens before
    time_ns: when it was known, on the clock of the generation
    """

    id: int
    text: str
    time_ns: int


class InferenceEngine(Protocol):
    """What the loop needs of `runtime.engine.Engine`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Makes text of ids."""

    @property
    def context(self) -> int:
        """How many tokens fit."""

    @property
    def epoch(self) -> int:
        """Another number for each text that the cache holds."""

    def prefill(self, token_ids: Sequence[int], /) -> npt.NDArray[np.float32]:
        """Logits [V] after these tokens; ContextOverflowError, before any work, if they do not fit."""

    def decode(self, token_id: int, epoch: int | None = None, /) -> npt.NDArray[np.float32]:
        """Logits [V] after one more token; CacheReplacedError if the text of that epoch is no longer the cached one."""


class Generation(Iterator[GeneratedToken]):
    """Tokens as they come, and what is known about the whole.

    prompt_tokens: how many tokens the prompt has
    start_ns:      when `generate` was called
    ttft_ns:       from that call to the first token; None before it
    finish_reason: "stop" (end-of-sequence token or stop string), "length" (max_tokens), "context" (full); None while it runs
    """

    def __init__(
        self,
        engine: InferenceEngine,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        max_tokens: int,
        stop: tuple[str, ...],
        ignore_eos: bool,
        clock: Callable[[], int],
    ) -> None:
        self.start_ns = clock()
        if len(prompt_ids) == 0:
            raise InvalidRequestError("the prompt is empty: it has no tokens, and there is nothing to continue")
        if max_tokens < 0:
            raise InvalidRequestError(f"max_tokens is {max_tokens}; possible: 0 or more")
        special = engine.tokenizer.special_tokens
        self._engine = engine
        self._sampling = sampling
        self._max_tokens = max_tokens
        ends: frozenset[int] = frozenset() if ignore_eos else engine.tokenizer.eos_ids
        self._stop_ids = ends | {special[text] for text in stop if text in special}
        self._stops = StopStrings(stop)
        self._clock = clock
        self.prompt_tokens = len(prompt_ids)
        self.ttft_ns: int | None = None
        self.finish_reason: FinishReason | None = None
        self._tokens = self._run(prompt_ids)

    def __next__(self) -> GeneratedToken:
        return next(self._tokens)

    def _run(self, prompt_ids: Sequence[int]) -> Iterator[GeneratedToken]:
        if self._max_tokens == 0:
            self.finish_reason = "length"
            return
        logits = self._prefill(prompt_ids)
        end = min(self.prompt_tokens + self._max_tokens, self._engine.context + 1)  # the last token is never decoded
        history = np.empty(end, np.int64)
        history[: self.prompt_tokens] = prompt_ids
        sampler = Sampler(self._sampling, len(logits))
        decoder = StreamDecoder(self._engine.tokenizer, after=prompt_ids)
        for position in range(self.prompt_tokens, end):
            token_id = sampler.sample(logits, history[:position])
            now_ns = self._clock()
            if self.ttft_ns is None:
                self.ttft_ns = now_ns - self.start_ns
            history[position] = token_id
            text = self._stops.push(decoder.push(token_id))
            if token_id in self._stop_ids or self._stops.found:
                self.finish_reason = "stop"
            elif position + 1 == end:
                self.finish_reason = "length" if end == self.prompt_tokens + self._max_tokens else "context"
            if self.finish_reason is not None:
                text += self._rest(decoder)
                yield GeneratedToken(token_id, text, now_ns)
                return
            yield GeneratedToken(token_id, text, now_ns)
            logits = self._advance(history[: position + 1])

    def _prefill(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        logits = self._engine.prefill(token_ids)
        self._epoch = self._engine.epoch
        return logits

    def _advance(self, history: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Logits after the newest token. Where another text has taken the cache since, this one is run again: to the same bits."""
        try:
            return self._engine.decode(int(history[-1]), self._epoch)
        except CacheReplacedError:
            return self._prefill(history.tolist())

    def _rest(self, decoder: StreamDecoder) -> str:
        """The text still held back at the end; after a stop string nothing is."""
        if self._stops.found:
            return ""
        return self._stops.push(decoder.flush()) + self._stops.flush()


def generate(
    engine: InferenceEngine,
    prompt_ids: Sequence[int],
    sampling: SamplingParams,
    max_tokens: int,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Generation:
    """Continue a prompt. The work begins with the first `next()`; dropping the iterator ends it.

    max_tokens: at most so many tokens, the end-of-sequence token among them
    stop:       a text, or several, that end the generation and are not part of its text; a special token such as `<|im_end|>`
                works too
    ignore_eos: go on after an end-of-sequence token, for measurements that need a fixed number of tokens
    clock:      nanoseconds

    Raises InvalidRequestError here for an empty prompt and impossible arguments, and at the first `next()`, before any work,
    ContextOverflowError for a prompt that is longer than the context.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return Generation(engine, prompt_ids, sampling, max_tokens, stops, ignore_eos, clock)
