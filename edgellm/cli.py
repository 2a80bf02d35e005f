"""The command line: the commands of the files beside this one, their errors and warnings as lines.

A command parses, calls and prints. It imports what it needs when it runs, so that --help is quick and needs no kernels.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any, TextIO

import click

import edgellm
from edgellm import cli_generate, cli_measure, cli_models, cli_quantize, cli_train
from edgellm.cli_options import FAILED
from edgellm.errors import EdgeLLMError, EdgeLLMWarning

INTERRUPTED = 130


class Failure(click.ClickException):
    """What the user can act on: one line on standard error, exit code 2."""

    exit_code = FAILED

    def show(self, file: Any = None) -> None:  # noqa: ARG002  click's signature
        """Print it."""
        click.echo(f"error: {self.message}", err=True)


class Commands(click.Group):
    """The command group: lists commands in the order of use, turns EdgeLLM's errors into exit codes and its warnings into lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """As they are added below."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = show_warning
                return super().invoke(ctx)
        except EdgeLLMError as error:
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001  Python's signature
    line: str | None = None,  # noqa: ARG001
) -> None:
    """One line on standard error; of a library's warning also where it comes from."""
    where = "" if issubclass(category, EdgeLLMWarning) else f"{filename}:{lineno}: {category.__name__}: "
    click.echo(f"warning: {where}{message}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edgellm.__version__, prog_name="edgellm")
def main() -> None:
    """Run language models on this machine, at a latency that can be trusted.

    \b
    Begin with:
      edgellm pull smollm2-135m        fetch a model (98 MB)
      edgellm convert smollm2-135m     convert it, losslessly
      edgellm chat                     talk to it
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"; it does not end the answer


for command in (
    cli_models.pull,
    cli_models.convert,
    cli_quantize.quantize,
    cli_train.distill,
    cli_quantize.sensitivity,
    cli_models.inspect,
    cli_generate.generate,
    cli_generate.chat,
    cli_measure.bench,
    cli_measure.tune,
    cli_measure.evaluate,
    cli_measure.report,
    cli_measure.energy,
):
    main.add_command(command)
