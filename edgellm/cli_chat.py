"""The conversation behind `edgellm chat`: reads lines, prints answers, keeps the history."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from edgellm.errors import EdgeLLMError
from edgellm.runtime.generate import Generation, generate
from edgellm.runtime.sampling import SamplingParams
from edgellm.text import chat
from edgellm.text.chat import Message

if TYPE_CHECKING:
    from edgellm.runtime.engine import Engine

HELP = """\
/reset  forget the conversation
/help   this text
/exit   leave; so does Ctrl-D
Ctrl-C stops an answer; what came of it stays in the conversation."""
ANSWER_SHARE = 4  # one part in so many of the context is kept free for the answer


class ChatSession:
    """One conversation with an engine, in a terminal or with lines piped in.

    Answers go to standard output, all else to standard error. Turn n draws with seed + n, so a repeated question need not get a
    repeated answer, and the whole conversation is still the same for the same seed.
    """

    def __init__(self, engine: Engine, sampling: SamplingParams, max_tokens: int, system: str | None) -> None:
        self._engine = engine
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._messages = list(self._start)
        self._turn = 0

    def run(self) -> None:
        """Until /exit or the end of input."""
        chat.render(self._engine.chat_template, [*self._start, {"role": "user", "content": ""}])  # a model that cannot chat says so now
        _note(f"{self._engine.path.name}, context {self._engine.context} tokens. /help lists commands, Ctrl-D leaves.")
        while (line := _read_line()) is not None and line != "/exit":
            if line == "/reset":
                self._reset()
            elif line.startswith("/"):
                _note(HELP if line == "/help" else f"{line.split()[0]} is not a command.\n{HELP}")
            elif line:
                self._try_to_answer(line)

    def _reset(self) -> None:
        self._messages = list(self._start)
        self._engine.reset()
        _note("(the conversation is forgotten)")

    def _try_to_answer(self, question: str) -> None:
        """One exchange. If it fails, or is given up outside its answer, the conversation goes on as if it had not been."""
        try:
            self._answer(question)
        except EdgeLLMError as error:
            _note(f"({error}; the question is not kept)")
        except KeyboardInterrupt:
            _note("(stopped; the question is not kept)")

    def _answer(self, question: str) -> None:
        engine = self._engine
        messages: list[Message] = [*self._messages, {"role": "user", "content": question}]
        room = engine.context - engine.context // ANSWER_SHARE
        kept, ids = chat.fitting_prompt(engine.tokenizer, engine.chat_template, messages, room)
        if len(kept) < len(messages):
            _note(f"(the context of {engine.context} tokens is full: the oldest {len(messages) - len(kept)} messages are forgotten)")
        sampling = replace(self._sampling, seed=self._sampling.seed + self._turn)
        answer = _print_answer(generate(engine, ids, sampling, self._max_tokens))
        self._messages = [*kept, {"role": "assistant", "content": answer}]
        self._turn += 1


def _print_answer(generation: Generation) -> str:
    """Print the tokens as they come, and say why they ended unless the model chose to; the text that came."""
    pieces: list[str] = []
    ending = ""
    try:
        for token in generation:
            pieces.append(token.text)
            click.echo(token.text, nl=False)
        if generation.finish_reason != "stop":
            ending = {"length": "--max-tokens", "context": "the context"}[str(generation.finish_reason)] + " ended the answer"
    except KeyboardInterrupt:
        ending = "stopped"
    finally:
        click.echo()
    if ending:
        _note(f"({ending})")
    return "".join(pieces)


def _read_line() -> str | None:
    """The next line without surrounding white space, None at the end of input."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  gives input() line editing and a history
    while True:
        try:
            return input("> " if interactive else "").strip()
        except EOFError:
            if interactive:
                click.echo()
            return None
        except KeyboardInterrupt:
            _note("\n(Ctrl-D or /exit leaves)")


def _note(text: str) -> None:
    """What the program says, as opposed to the model."""
    click.echo(text, err=True)
