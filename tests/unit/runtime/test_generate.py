from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.errors import CacheReplacedError, ContextOverflowError, InvalidRequestError
from edgellm.runtime.generate import GeneratedToken, Generation, generate
from edgellm.runtime.sampling import SamplingParams
from edgellm.text.tokenizer import Tokenizer
from tests.unit.conftest import END, START, ScriptedEngine

Scripted = Callable[..., ScriptedEngine]
GREEDY = SamplingParams()


def run(engine: ScriptedEngine, prompt: str = "hi", max_tokens: int = 100, stop: str | Sequence[str] = ()) -> tuple[Generation, list[str]]:
    generation = generate(engine, engine.tokenizer.encode(prompt), GREEDY, max_tokens, stop)
    return generation, [token.text for token in generation]


@pytest.mark.parametrize(
    ("script", "max_tokens", "stop", "texts", "reason"),
    [
        ("ab", 100, (), ["a", "b", ""], "stop"),  # the end-of-sequence token comes too
        ("abc", 2, (), ["a", "b"], "length"),
        ("ab", 2, (), ["a", "b"], "length"),
        ("é👍", 100, (), ["", "é", "", "", "", "👍", ""], "stop"),
        ("é", 1, (), ["\ufffd"], "length"),
        ("aXbc", 100, ("Xb",), ["a", "", ""], "stop"),
        ("aXc", 100, ("Xb",), ["a", "", "Xc", ""], "stop"),
        ("aX", 100, ("Xb",), ["a", "", "X"], "stop"),  # held back, then let go with the last token
        ("aX", 2, ("Xb",), ["a", "X"], "length"),
        ("a<user>b", 100, ("user",), ["a", "<"], "stop"),  # in the middle of a token's text
        ("aEbEND", 100, "END", ["a", "", "Eb", "", "", ""], "stop"),  # one text, not three
        ("aXb", 100, ["Z", "X"], ["a", ""], "stop"),
        ("aé", 100, ("a",), [""], "stop"),  # the token goes on into é, which is then not begun
        ("ab", 100, ("\ufffd",), ["a", "b", ""], "stop"),
        ("é", 1, ("\ufffd",), [""], "length"),
    ],
)
def test_what_comes_and_why_it_ends(
    scripted: Scripted, script: str, max_tokens: int, stop: str | Sequence[str], texts: list[str], reason: str
) -> None:
    generation, seen = run(scripted(script, END), max_tokens=max_tokens, stop=stop)
    assert (seen, generation.finish_reason) == (texts, reason)


def test_a_special_token_stops_by_its_text(scripted: Scripted) -> None:
    generation, texts = run(scripted("a", START, "b"), stop=("<|im_start|>",))
    assert (texts, generation.finish_reason) == (["a", ""], "stop")


def test_where_the_end_of_a_sequence_ends_nothing(scripted: Scripted) -> None:
    """A measurement wants as many tokens as it asked for; what was asked to stop it still does."""
    engine = scripted("a", END, "b", START, "c")
    generation = generate(engine, engine.tokenizer.encode("hi"), GREEDY, 100, "<|im_start|>", ignore_eos=True)
    assert ([token.text for token in generation], generation.finish_reason) == (["a", "", "b", ""], "stop")


@pytest.mark.parametrize(("context", "count"), [(3, 3), (4, 4), (1, 1)])
def test_the_context_is_used_to_the_last_token(scripted: Scripted, context: int, count: int) -> None:
    """One token of prompt: `context` positions can be computed, and each gives a token."""
    generation, texts = run(scripted("abcdefg", context=context))
    assert (len(texts), generation.finish_reason) == (count, "context")


def test_length_is_named_when_both_limits_meet(scripted: Scripted) -> None:
    assert run(scripted("abcdefg", context=3), max_tokens=3)[0].finish_reason == "length"


def test_no_tokens_asked_no_work_done(scripted: Scripted) -> None:
    engine = scripted()
    generation, texts = run(engine, max_tokens=0)
    assert (texts, generation.finish_reason, engine.prompts) == ([], "length", [])


def test_times_and_counts(scripted: Scripted) -> None:
    engine = scripted("abc", END)
    clock = itertools.count(1000, 10)
    generation = generate(engine, engine.tokenizer.encode("hi 1"), GREEDY, 100, clock=lambda: next(clock))
    assert (generation.prompt_tokens, generation.start_ns, generation.ttft_ns, generation.finish_reason) == (3, 1000, None, None)
    assert [token.time_ns for token in generation] == [1010, 1020, 1030, 1040]
    assert generation.ttft_ns == 10
    assert engine.prompts == [engine.tokenizer.encode("hi 1")]


def test_the_prompt_and_what_was_said_are_the_history(scripted: Scripted) -> None:
    """The logits are 1 for the scripted token and 0 for the others, so a penalty on it can only halve them: it is still drawn."""
    engine = scripted("aab", END)
    seen = generate(engine, engine.tokenizer.encode("a"), SamplingParams(repetition_penalty=2), 100)
    assert engine.tokenizer.decode(token.id for token in seen) == "aab"


def test_nothing_runs_before_the_first_token_is_asked_for_and_nothing_after_it_is_dropped(scripted: Scripted) -> None:
    engine = scripted("ab")  # a third step would end the script with an error
    generation = generate(engine, [5], GREEDY, 100)
    assert engine.prompts == []
    assert next(generation).text == "a"
    del generation


@pytest.mark.parametrize(
    ("prompt_ids", "max_tokens", "stop", "message"),
    [
        ([], 1, (), "prompt is empty"),
        ([5], -1, (), "max_tokens is -1"),
        ([5], 1, "", "at least one character"),
        ([5], 1, ("",), "at least one"),
    ],
)
def test_impossible_requests_are_refused_at_once(
    scripted: Scripted, prompt_ids: list[int], max_tokens: int, stop: str | Sequence[str], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        generate(scripted(), prompt_ids, GREEDY, max_tokens, stop)


def test_a_prompt_longer_than_the_context_is_the_engines_error(scripted: Scripted) -> None:
    with pytest.raises(ContextOverflowError, match="5 tokens, context 4"):
        next(generate(scripted("a", context=4), [5] * 5, GREEDY, 10**12))


class TextEngine:
    """An engine whose logits follow from the whole cached text, in one buffer, as the real engine's; it holds one text at a time."""

    def __init__(self, tokenizer: Tokenizer, context: int = 64) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.epoch = 0
        self.prompts: list[list[int]] = []
        self._text: list[int] = []
        self._logits = np.empty(tokenizer.vocab_size + 3, np.float32)  # padded, as many models are

    def prefill(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        self.epoch += 1
        self.prompts.append(list(token_ids))
        self._text = list(token_ids)
        return self._run()

    def decode(self, token_id: int, epoch: int | None = None) -> npt.NDArray[np.float32]:
        if epoch != self.epoch:
            raise CacheReplacedError
        self._text.append(token_id)
        return self._run()

    def _run(self) -> npt.NDArray[np.float32]:
        assert len(self._text) <= self.context
        self._logits[:] = np.random.Generator(np.random.PCG64(self._text)).random(len(self._logits))
        return self._logits


TEXTS = {name: SamplingParams(temperature=1, repetition_penalty=1.1, seed=seed) for seed, name in enumerate("abc")}


def begin(engine: TextEngine, name: str) -> Generation:
    return generate(engine, engine.tokenizer.encode(name), TEXTS[name], 12)


@pytest.mark.parametrize("turns", ["abc" * 12, "aabbbc" * 12, "abcabc" + "c" * 12 + "b" * 12 + "a" * 12, "ab" + "cba" * 12])
def test_generations_that_take_turns_say_what_each_says_alone(tokenizer: Tokenizer, turns: str) -> None:
    alone = {name: list(begin(TextEngine(tokenizer), name)) for name in TEXTS}
    engine = TextEngine(tokenizer)
    generations = {name: begin(engine, name) for name in TEXTS}
    together: dict[str, list[GeneratedToken]] = {name: [] for name in TEXTS}
    for name in turns:
        together[name] += itertools.islice(generations[name], 1)
    for name in TEXTS:
        assert [token[:2] for token in together[name]] == [token[:2] for token in alone[name]]
        assert generations[name].finish_reason is not None


def test_only_a_change_of_turns_runs_a_text_again(tokenizer: Tokenizer) -> None:
    engine = TextEngine(tokenizer)
    a, b = begin(engine, "a"), begin(engine, "b")
    said = [next(a).id, next(a).id]
    for generation in (b, b, a, a):
        next(generation)
    prompt = tokenizer.encode("a")
    assert engine.prompts == [prompt, tokenizer.encode("b"), prompt + said]


@pytest.mark.parametrize("keep", [False, True])
def test_a_generation_left_in_the_middle_leaves_the_engine_to_others(tokenizer: Tokenizer, keep: bool) -> None:
    alone = {name: [token.id for token in begin(TextEngine(tokenizer), name)] for name in TEXTS}
    engine = TextEngine(tokenizer)
    left = begin(engine, "a")
    said = [next(left).id, next(left).id]
    if not keep:
        del left
    assert [token.id for token in begin(engine, "b")] == alone["b"]
    if keep:  # it can be taken up again
        assert said + [token.id for token in left] == alone["a"]


def test_ids_that_pad_the_logits_can_be_drawn(tokenizer: Tokenizer) -> None:
    sampling = SamplingParams(temperature=1)
    drawn = [token for token in generate(TextEngine(tokenizer, 2000), [5], sampling, 1000) if token.id >= tokenizer.vocab_size]
    assert drawn
    assert all(token.text == "" for token in drawn)
