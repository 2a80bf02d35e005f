"""What commands have in common: options, and the exit code of what fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

DEFAULT_MODEL = "smollm2-135m"
FAILED = 2

Command = TypeVar("Command", bound=Callable[..., None])


def counts(_: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """The numbers of "1,2"; of "" none."""
    try:
        return [int(item) for item in value.split(",")] if value else []
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number or a list of numbers such as 1,2", param=parameter) from None


def model_option(command: Command) -> Command:
    """--model, the same everywhere."""
    text = (
        "The name of a converted model in the cache, or a .tmac2.bin file. A GGUF file of Q4_0, Q4_1 or Q8_0 runs as it is; "
        "converting it makes loading faster."
    )
    return click.option("--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME|PATH", help=text)(command)


def realtime_option(command: Command) -> Command:
    """--realtime, the same everywhere."""
    text = "Lock memory, bind each thread to a core, run before ordinary processes (SCHED_FIFO); a warning where the system refuses."
    return click.option("--realtime", is_flag=True, help=text)(command)


def engine_options(command: Command) -> Command:
    """How a model is loaded."""
    options = [
        model_option,
        click.option("--threads", type=int, help="Threads to compute with.  [default: one per physical core]"),
        click.option("--context", type=int, help="Tokens that prompt and answer may have together.  [default: the model's, up to 8192]"),
        click.option("--kv-dtype", type=click.Choice(["f16", "f32"]), default="f16", show_default=True, help="Storage of keys and values."),
        click.option("--lock-memory", is_flag=True, help="Take all memory at once and keep it; a warning where the system refuses."),
        realtime_option,
        click.option("--check-finite", is_flag=True, help="Stop where an operation gives NaN or infinity, with an error that says which."),
    ]
    return _apply(options, command)


def sampling_options(temperature: float = 0.0, top_p: float = 1.0, repetition_penalty: float = 1.0) -> Callable[[Command], Command]:
    """The fields of SamplingParams, with its defaults unless others are given."""
    options = [
        _setting("--temperature", temperature, "0 takes the most probable token, always."),
        _setting("--top-k", 0, "Draw from the k most probable tokens; 0 = from all."),
        _setting("--top-p", top_p, "Draw from the fewest tokens this probable together."),
        _setting("--min-p", 0.0, "Drop tokens less probable than this times the best one."),
        _setting("--repetition-penalty", repetition_penalty, "Above 1, what was said is said less."),
        _setting("--seed", 0, "Same seed, same text, on every machine."),
    ]
    return lambda command: _apply(options, command)


def _setting(name: str, default: float, text: str) -> Callable[[Command], Command]:
    return click.option(name, type=type(default), default=default, show_default=True, help=text)


def _apply(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
