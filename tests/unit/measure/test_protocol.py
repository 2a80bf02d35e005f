from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure.backends.protocol import BackendFailedError
from edgellm.measure.protocol import LENGTHS, TEXTS, Round, make_prompts, run_round


class Says:
    """A backend that gives these items."""

    name = "says"
    threads: int | None = None
    process_id: int | None = None

    def __init__(self, *items: str) -> None:
        self.items = items

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        yield from self.items[:max_tokens]

    def count_tokens(self, text: str) -> int | None:
        return len(text.split())

    def description(self) -> dict[str, Any]:
        return {}

    def unload(self) -> None:
        pass


def pairs_of_letters(text: str) -> int:
    """Not every number of tokens is a number of words."""
    return sum(-(-len(word) // 2) for word in text.split())


@pytest.mark.parametrize("count_tokens", [lambda text: len(text.split()), pairs_of_letters, len], ids=["words", "pairs", "letters"])
def test_prompts_have_as_many_tokens_as_their_name_says(count_tokens: Any) -> None:
    prompts = make_prompts(count_tokens)
    assert {name: prompt.tokens for name, prompt in prompts.items()} == LENGTHS
    for prompt in prompts.values():
        assert prompt.counted
        assert {count_tokens(text) for text in prompt.texts} == {prompt.tokens}


def test_prompts_are_the_same_each_time_and_differ_from_round_to_round() -> None:
    first, second = (make_prompts(pairs_of_letters)["medium"] for _ in range(2))
    assert first == second
    assert len(set(first.texts)) == TEXTS
    assert first.text(0) == first.text(TEXTS) != first.text(1)


def test_prompts_for_an_engine_that_does_not_count_are_estimates() -> None:
    prompts = make_prompts(lambda text: None)
    assert [prompt.counted for prompt in prompts.values()] == [False] * 3
    assert {len(text.split()) for text in prompts["medium"].texts} == {98}  # 128 tokens at 1.3 a word


def test_a_tokenizer_that_makes_no_such_number_is_said() -> None:
    with pytest.raises(InvalidRequestError, match="no part of the text is 8 tokens for this model; its tokenizer makes 1000 of the word"):
        make_prompts(lambda text: 1000 * len(text.split()))


def test_a_round() -> None:
    """The clock is read at the submission and at each token."""
    ticks = count(0, 10)
    assert run_round(Says("a", "", "c"), "x", 3, clock=lambda: next(ticks)) == Round(ttft_ns=10, itl_ns=[10, 10], e2e_ns=30)
    assert run_round(Says("a"), "x", 3, clock=lambda: next(ticks)) == Round(ttft_ns=10, itl_ns=[], e2e_ns=10)


def test_a_backend_that_says_nothing_is_no_round() -> None:
    with pytest.raises(BackendFailedError, match="says gave no token for a prompt of 2 words and max_tokens 5"):
        run_round(Says(), "x y", 5)
