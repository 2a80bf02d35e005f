from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import pytest

from edgellm.cli_chat import ChatSession
from edgellm.errors import EdgeLLMError, UnsupportedModelError
from edgellm.runtime.generate import Generation, generate
from edgellm.runtime.sampling import SamplingParams
from edgellm.text.chat import prompt_ids
from tests.unit.conftest import CHAT_TEMPLATE, END, ScriptedEngine

Scripted = Callable[..., ScriptedEngine]


class Terminal:
    """Standard input whose lines may be exceptions: Ctrl-C at the prompt."""

    def __init__(self, *lines: str | BaseException) -> None:
        self._lines = iter(lines)

    def isatty(self) -> bool:
        return False

    def readline(self) -> str:
        line = next(self._lines, None)
        if isinstance(line, BaseException):
            raise line
        return "" if line is None else f"{line}\n"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """chat(engine, *lines): what the session writes to standard output and to standard error."""

    def run(engine: ScriptedEngine, *lines: str | BaseException, max_tokens: int = 100, system: str | None = None) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", Terminal(*lines))
        ChatSession(engine, SamplingParams(), max_tokens, system).run()  # type: ignore[arg-type]
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def conversation(engine: ScriptedEngine, *texts: str, system: str | None = None) -> list[int]:
    """The prompt for user, assistant, user, ... texts."""
    roles = ["user", "assistant"] * len(texts)
    head = [] if system is None else [{"role": "system", "content": system}]
    return prompt_ids(
        engine.tokenizer, CHAT_TEMPLATE, [*head, *({"role": role, "content": text} for role, text in zip(roles, texts, strict=False))]
    )


def test_answers_become_history(scripted: Scripted, chat: Callable[..., tuple[str, str]]) -> None:
    engine = scripted("hi", END, "日本", END, context=900)
    out, _ = chat(engine, "  one ", "", "two", system="short")
    assert out == "hi\n日本\n"
    assert engine.prompts == [conversation(engine, "one", system="short"), conversation(engine, "one", "hi", "two", system="short")]


def test_commands(scripted: Scripted, chat: Callable[..., tuple[str, str]]) -> None:
    engine = scripted("a", END, "b", END, context=900)
    out, err = chat(engine, "one", "/reset", "two", "/help", "/nonsense x", "/exit", "never asked")
    assert out == "a\nb\n"
    assert engine.prompts == [conversation(engine, "one"), conversation(engine, "two")]
    assert engine.resets == 1
    assert err.count("/reset  forget the conversation") == 2
    assert "/nonsense is not a command" in err


def test_ctrl_c_stops_the_answer_and_not_the_program(scripted: Scripted, chat: Callable[..., tuple[str, str]]) -> None:
    engine = scripted("ab", KeyboardInterrupt(), "c", END, context=900)
    out, err = chat(engine, "one", KeyboardInterrupt(), "two")
    assert out == "ab\nc\n"
    assert "(stopped)" in err
    assert "(Ctrl-D or /exit leaves)" in err
    assert engine.prompts[1] == conversation(engine, "one", "ab", "two")


def test_ctrl_c_before_the_first_token(scripted: Scripted, chat: Callable[..., tuple[str, str]]) -> None:
    engine = scripted(KeyboardInterrupt(), "c", END, context=900)
    assert chat(engine, "one", "two")[0] == "\nc\n"


@pytest.mark.parametrize("where", ["edgellm.cli_chat.chat.fitting_prompt", "edgellm.cli_chat._note", "edgellm.cli_chat.generate"])
def test_ctrl_c_around_an_answer_leaves_the_conversation_as_it_was(
    scripted: Scripted, chat: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """_note: a second Ctrl-C while the first one's note is written."""
    function, interrupts = pkgutil.resolve_name(where), [KeyboardInterrupt()]

    def interrupted(*args: Any) -> Any:
        if interrupts and not str(args[0]).startswith("scripted"):
            raise interrupts.pop()
        return function(*args)

    monkeypatch.setattr(where, interrupted)
    engine = scripted(*(["a", KeyboardInterrupt()] if where.endswith("_note") else []), "b", END, context=900)
    out, err = chat(engine, "one", "two")
    assert out.endswith("b\n")
    assert "(stopped; the question is not kept)" in err
    assert engine.prompts[-1] == conversation(engine, "two")


def test_an_error_in_an_answer_is_told_and_leaves_the_conversation_as_it_was(
    scripted: Scripted, chat: Callable[..., tuple[str, str]]
) -> None:
    engine = scripted("a", END, "b", EdgeLLMError("cannot go on"), "c", END, context=900)
    out, err = chat(engine, "one", "two", "three")
    assert out == "a\nb\nc\n"
    assert "(cannot go on; the question is not kept)" in err
    assert engine.prompts[-1] == conversation(engine, "one", "a", "three")


def test_a_template_that_refuses_the_conversation_is_told(scripted: Scripted, chat: Callable[..., tuple[str, str]]) -> None:
    engine = scripted("a", END, context=900)
    engine.chat_template = "{% if messages[0].content == 'no' %}{{ raise_exception('not that') }}{% endif %}" + CHAT_TEMPLATE
    out, err = chat(engine, "no", "one")
    assert out == "a\n"
    assert "refuses the conversation: not that; the question is not kept" in err


def test_a_full_context_forgets_the_oldest_and_says_so(scripted: Scripted, chat: Callable[..., tuple[str, str]]) -> None:
    engine = scripted("a", END, "b", END, "c", END, "d", END, context=160)
    out, err = chat(engine, "x" * 40, "y" * 40, "z" * 200, "third", "4th")
    assert out == "a\nb\nc\nd\n"
    assert err.count("the oldest 2 messages are forgotten") == err.count("forgotten") == 1
    assert "the message is too long" in err
    assert engine.prompts[2] == conversation(engine, "y" * 40, "b", "third")
    assert engine.prompts[3] == conversation(engine, "y" * 40, "b", "third", "c", "4th")


@pytest.mark.parametrize(
    ("context", "max_tokens", "says"), [(900, 2, "--max-tokens ended the answer"), (45, 99, "the context ended the answer")]
)
def test_an_answer_cut_short_says_why(
    scripted: Scripted, chat: Callable[..., tuple[str, str]], context: int, max_tokens: int, says: str
) -> None:
    assert says in chat(scripted("abcdefghijklmnopqrstuvwxyz", context=context), "one", max_tokens=max_tokens)[1]


def test_a_model_without_a_template_says_so_before_any_question(scripted: Scripted, chat: Callable[..., tuple[str, str]]) -> None:
    engine = scripted()
    engine.chat_template = None
    with pytest.raises(UnsupportedModelError, match="no chat template"):
        chat(engine, "one")


def test_turns_draw_with_seeds_of_their_own(
    scripted: Scripted, chat: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def noting_generate(engine: ScriptedEngine, ids: list[int], sampling: SamplingParams, max_tokens: int) -> Generation:
        seeds.append(sampling.seed)
        return generate(engine, ids, sampling, max_tokens)

    monkeypatch.setattr("edgellm.cli_chat.generate", noting_generate)
    chat(scripted("a", END, "a", END, context=900), "one", "one")
    assert seeds == [0, 1]
