"""`edgellm generate` and `edgellm chat`: the engine at work."""

from __future__ import annotations

import itertools
import json
import sys
from typing import TYPE_CHECKING, Any

import click

import edgellm
from edgellm.cli_options import engine_options, sampling_options
from edgellm.errors import InvalidRequestError

if TYPE_CHECKING:
    from edgellm.runtime.engine import Engine
    from edgellm.runtime.generate import GeneratedToken, Generation
    from edgellm.runtime.sampling import SamplingParams


@click.command()
@engine_options
@click.option("-p", "--prompt", required=True, help="The text to continue; - reads it from standard input (less its last newline).")
@click.option("--max-tokens", type=int, default=256, show_default=True, help="At most so many tokens.")
@sampling_options()
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text. May be given several times.")
@click.option("--chat/--raw", "as_chat", default=False, help="Answer the prompt, or continue it as it is.  [default: --raw]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when done: text, token ids, times.")
def generate(prompt: str, max_tokens: int, stop: tuple[str, ...], as_chat: bool, as_json: bool, **options: Any) -> None:
    """Continue a text, or answer a message.

    In a --raw prompt special tokens such as <|im_end|> mean what they mean to the model.

    \b
    Examples:
      edgellm generate -p "The capital of France is" --max-tokens 16
      edgellm generate --chat -p "Why is the sky blue?" --temperature 0.7 --seed 1
      echo "def fib(n):" | edgellm generate -p - --stop "def " --json
    """
    from edgellm.runtime.generate import generate as run

    sampling = _sampling(options)
    text = _standard_input() if prompt == "-" else prompt
    model = options["model"]
    engine = _load(options)
    if as_chat:
        from edgellm.text import chat as template  # with jinja2, which is megabytes that a raw prompt does without

        ids = template.prompt_ids(engine.tokenizer, engine.chat_template, [{"role": "user", "content": text}])
    else:
        ids = engine.tokenizer.encode(text)
    generation = run(engine, ids, sampling, max_tokens, stop)
    if as_json:
        report = {"model": model, "seed": sampling.seed, **_report(generation, list(generation))}
        click.echo(json.dumps(report))
        return
    for token in generation:
        click.echo(token.text, nl=False)
    click.echo()


@click.command()
@engine_options
@click.option("--system", metavar="TEXT", help="The system message.  [default: the model's own]")
@click.option("--max-tokens", type=int, default=1024, show_default=True, help="At most so many tokens per answer.")
@sampling_options(temperature=0.2, top_p=0.9, repetition_penalty=1.1)
def chat(system: str | None, max_tokens: int, **options: Any) -> None:
    """Talk to a model.

    Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.

    \b
    Example:
      edgellm chat --temperature 0.7 --system "Answer in one sentence."
    """
    from edgellm.cli_chat import ChatSession

    sampling = _sampling(options)
    ChatSession(_load(options), sampling, max_tokens, system).run()


def _load(options: dict[str, Any]) -> Engine:
    names = ("threads", "context", "kv_dtype", "lock_memory", "realtime", "check_finite")
    return edgellm.load(options["model"], **{name: options[name] for name in names})


def _sampling(options: dict[str, Any]) -> SamplingParams:
    from edgellm.runtime.sampling import SamplingParams

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    return SamplingParams(**{name: options[name] for name in names})


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the prompt on standard input is not UTF-8: {error}") from error


def _report(generation: Generation, tokens: list[GeneratedToken]) -> dict[str, Any]:
    """The generation as JSON has it. itl_ms: from each token to the next; tokens_per_second: after the first, None below two."""
    times_ns = [token.time_ns for token in tokens]
    itl_ms = [(after - before) / 1e6 for before, after in itertools.pairwise(times_ns)]
    return {
        "prompt_tokens": generation.prompt_tokens,
        "text": "".join(token.text for token in tokens),
        "token_ids": [token.id for token in tokens],
        "finish_reason": generation.finish_reason,
        "ttft_ms": None if generation.ttft_ns is None else generation.ttft_ns / 1e6,
        "itl_ms": itl_ms,
        "tokens_per_second": 1000 * len(itl_ms) / sum(itl_ms) if itl_ms else None,
    }
