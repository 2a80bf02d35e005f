"""The engine as a model of lm-eval, which asks it for loglikelihoods of continuations and of whole texts, and for greedy answers.

The engine knows nothing of this. Whatever is particular to lm-eval, such as how a text becomes token ids and what is left out of one that
is too long, is here, and is done as lm-eval's own model `hf` does it, so that both can be compared request by request.

    lm_eval.simple_evaluate(EdgeLM("smollm2-135m", threads=2), tasks=["hellaswag"])
    python -m edgellm.evaluate --model edgellm --model_args pretrained=smollm2-135m,threads=2 --tasks hellaswag

One text is run at a time; those that begin alike come in a row, so that what they share is run once and stays in the engine's cache.
Choices of one token each, such as the letters of MMLU, are all read from the logits after their common context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

import edgellm
from edgellm.errors import EvaluationError, NonFiniteError
from edgellm.evaluate.scorer import LogitsScorer, Scorer
from edgellm.runtime.engine import Engine
from edgellm.runtime.generate import generate
from edgellm.runtime.sampling import SamplingParams
from edgellm.text import chat

Item = TypeVar("Item")

Answer = tuple[float, bool]
"""The loglikelihood of a continuation, in nats, and whether each of its tokens was the most probable one."""

TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
"""(context, continuation), or None for a window of a longer text; the token ids of both."""

MAX_GEN_TOKS = 256
"""Of an answer, where the task does not say: lm-eval's own default."""

GREEDY = frozenset(("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p"))
"""What a task may say about generation. Where nothing is drawn, the last four mean nothing."""


@register_model("edgellm")
class EdgeLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A model for lm-eval.

    pretrained: an engine, what `edgellm.load` takes, with `threads`, or for tasks that generate nothing another model that scores
    max_length: tokens that a text may have, default as many as the engine's context; of a longer one the beginning is left out
    add_bos:    whether a text begins with the BOS token; default, as the model's tokenizer has it
    progress:   whether bars are shown
    batch_size, max_batch_size: EvaluationError for others than 1 (or "auto")
    device:     means nothing; lm-eval's command line hands "cuda:0" to every model unless told otherwise
    """

    def __init__(
        self,
        pretrained: str | Path | Scorer,
        *,
        threads: int | None = None,
        max_length: int | None = None,
        add_bos: bool | None = None,
        progress: bool = True,
        batch_size: int | str = 1,
        max_batch_size: int = 1,
        device: str | None = None,  # noqa: ARG002  lm-eval's signature
    ) -> None:
        super().__init__()
        if str(batch_size) not in ("1", "auto") or max_batch_size != 1:
            raise EvaluationError(f"batch_size is {batch_size}; the engine runs one text at a time, on all of its threads: leave it at 1")
        self.engine: Scorer = (
            edgellm.load(pretrained, threads=threads, context=max_length) if isinstance(pretrained, str | Path) else pretrained
        )
        self.max_length = self.engine.context if max_length is None else max_length
        if not 2 <= self.max_length <= self.engine.context:
            raise EvaluationError(f"max_length is {max_length}; possible: from 2 to the engine's context of {self.engine.context} tokens")
        if add_bos and self.engine.tokenizer.bos_id is None:
            raise EvaluationError(f"add_bos: {self.engine.path.name} has no BOS token")
        self.add_bos = add_bos
        self._progress = progress
        self._special_texts: Mapping[int | None, str] = {i: text for text, i in self.engine.tokenizer.special_tokens.items()}

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text: the lowest where there are several; EvaluationError where there is none."""
        ends = self.engine.tokenizer.eos_ids
        if not ends:
            raise EvaluationError(f"{self.engine.path.name} has neither a BOS nor an EOS token, which a text without context comes after")
        return min(ends)

    @property
    def prefix_token_id(self) -> int:
        """What a text without context comes after: BOS, or else EOS."""
        bos = self.engine.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Tells prompts of different models apart where lm-eval keeps them."""
        return self.engine.path.name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's own; it has no others to choose from by name."""
        return self.engine.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation; errors as in `edgellm.text.chat.render`."""
        names, tokenizer = self._special_texts, self.engine.tokenizer
        bos, eos = names.get(tokenizer.bos_id, ""), names.get(min(tokenizer.eos_ids, default=None), "")
        return chat.render(self.engine.chat_template, chat_history, bos, eos, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The token ids of a text. A BOS that the text has already, written by a chat template, is not doubled."""
        tokenizer = self.engine.tokenizer
        bos = self._special_texts.get(tokenizer.bos_id)
        bare = add_special_tokens is False or (bos is not None and string.startswith(bos))
        ids = tokenizer.encode(string, add_special_tokens=self.add_bos is None and not bare)
        return [self.prefix_token_id, *ids] if self.add_bos and not bare else ids

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[Answer]:
        """Of each continuation, given its context: requests of (context, continuation)."""
        if empty := next((request for request in requests if not request.args[1]), None):
            raise EvaluationError(f"a continuation of {_shown(empty.args[0])} is empty: it has no tokens to score")
        answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of each text as a whole: requests of (text,). Windows follow each other without an overlap, each after one token of context."""
        answers = []
        for request in self._bar(requests, "text", disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1)
            scored = self._loglikelihood_tokens([(None, *make_disjoint_window(window)) for window in windows], disable_tqdm=True)
            answers.append(math.fsum(loglikelihood for loglikelihood, _ in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answers[-1])
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The greedy answer to each prompt, up to what ends it: requests of (prompt, settings)."""
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        answers = [""] * len(requests)
        for i in self._bar(sorted(range(len(requests)), key=prompts.__getitem__), "answer", disable_tqdm):
            answers[i] = self._answer(prompts[i], _greedy_settings(requests[i].args[1]))
            self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
        return answers

    def _answer(self, ids: list[int], settings: Mapping[str, Any]) -> str:
        tokens = settings["max_gen_toks"]
        if isinstance(self.engine, LogitsScorer):
            raise EvaluationError(f"{self.engine.path.name} is asked by an engine that scores texts and writes none: leave such tasks out")
        room = self.max_length - tokens
        if room < 1:
            raise EvaluationError(f"answers of {tokens} tokens leave no room for a prompt in {self.max_length}; load with a larger context")
        stops = [stop for stop in settings["until"] if stop]
        return "".join(token.text for token in generate(cast("Engine", self.engine), ids[-room:], SamplingParams(), tokens, stops))

    def _loglikelihood_tokens(self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **_: Any) -> list[Answer]:
        answers: list[Answer] = [(0.0, True)] * len(requests)
        for together in self._bar(_grouped(requests), "text", disable_tqdm):
            for i, answer in zip(together, self._scored([requests[i] for i in together]), strict=True):
                answers[i] = answer
                if (named := requests[i][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", named, answer)
        return answers

    def _scored(self, requests: Sequence[TokenRequest]) -> list[Answer]:
        """Of one request, or of several of one token each after the same context."""
        named, context, continuation = requests[0]
        if len(continuation) > self.max_length:
            raise EvaluationError(f"{_request(named)}: the continuation has {len(continuation)} tokens; at most {self.max_length} fit")
        ids = (context + continuation)[-self.max_length - 1 :]
        try:
            if len(continuation) == 1:
                scores = self.engine.score_next(ids[:-1], [token for *_, (token,) in requests])
                return [(-nll, greedy) for nll, greedy in zip(scores.nll.tolist(), scores.greedy.tolist(), strict=True)]
            scores = self.engine.score(ids, len(ids) - len(continuation))
        except NonFiniteError as error:
            raise NonFiniteError(f"{_request(named)} cannot be scored: {error}") from error
        return [(-math.fsum(scores.nll), bool(scores.greedy.all()))]

    def _bar(self, items: Sequence[Item], unit: str, hidden: bool) -> Iterator[Item]:
        return iter(tqdm(items, desc="scoring", unit=unit, disable=hidden or not self._progress, leave=False))


def _grouped(requests: Sequence[TokenRequest]) -> list[list[int]]:
    """Which are scored at once, by their places: continuations of one token after the same context; each of the others alone. Those that
    begin alike come in a row.
    """
    in_order = sorted(range(len(requests)), key=lambda i: (requests[i][1], len(requests[i][2]) > 1, requests[i][2]))
    return [list(group) for _, group in groupby(in_order, key=lambda i: (requests[i][1], i if len(requests[i][2]) > 1 else None))]


def _greedy_settings(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """lm-eval's settings under their usual names; EvaluationError for those that a greedy answer cannot honour."""
    settings: Mapping[str, Any] = normalize_gen_kwargs(dict(asked), MAX_GEN_TOKS)
    if settings["do_sample"] or not settings.keys() <= GREEDY:
        raise EvaluationError(f"an answer is to be generated with {dict(asked)}; possible are greedy ones, with until and max_gen_toks")
    return settings


def _request(named: tuple[str, str] | None) -> str:
    return "a window of a text" if named is None else f"the continuation {_shown(named[1])} of {_shown(named[0])}"


def _shown(text: str) -> str:
    """A text's end, which tells prompts apart."""
    return repr(text if len(text) <= 60 else f"...{text[-60:]}")
