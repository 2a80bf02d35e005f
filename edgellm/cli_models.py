"""`edgellm pull`, `convert` and `inspect`: where models come from, the form that runs, and what it holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgellm.cli_quantize import sizes_text, totals_text
from edgellm.errors import InvalidRequestError, ModelFileError


@click.command()
@click.argument("name")
def pull(name: str) -> None:
    """Fetch a model into the cache.

    The cache is ~/.cache/edgellm, or EDGELLM_HOME. NAME is smollm2-135m, gemma-3-270m, qwen2.5-coder-0.5b, hf:OWNER/NAME on the Hugging
    Face hub, or a path.

    \b
    Example:
      edgellm pull smollm2-135m
    """
    from edgellm.formats import fetch
    from edgellm.formats.paths import exists

    path = fetch.pull(name, progress=sys.stderr.isatty())
    click.echo(path)
    if not path.name.endswith(fetch.SUFFIX):
        click.echo(f"next: {fetch.how_to_make(path if exists(Path(name)) else name)}", err=True)


@click.command()
@click.argument("source", metavar="SRC")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write, X.tmac2.bin.  [default: in the cache]")
@click.option("--scheme", default="keep", show_default=True, help="keep: what there is; `edgellm quantize` makes others.")
def convert(source: str, output: Path | None, scheme: str) -> None:
    """Convert a model into the form that runs, .tmac2.bin, losslessly.

    SRC is a GGUF file, a Hugging Face folder, or what was pulled, by its name. Its matrices stay as they are quantized.

    \b
    Examples:
      edgellm convert smollm2-135m
      edgellm convert model.Q4_0.gguf -o model.tmac2.bin
    """
    from edgellm.formats import fetch
    from edgellm.quantize.convert import convert as run

    if scheme != "keep":
        raise InvalidRequestError(f"convert keeps the weights as they are; to round them, run: edgellm quantize {source} --scheme {scheme}")
    path = fetch.resolve_source(source)
    report = run(path, output or fetch.default_destination(path), progress=sys.stderr.isatty())
    click.echo(report.destination)
    click.echo(sizes_text(report), err=True)


@click.command()
@click.argument("model", metavar="X")
@click.option("--verify", is_flag=True, help="Also compare every checksum (.tmac2.bin files).")
@click.option(
    "--plan", is_flag=True, help="Run it instead: the kernel of each operation, its bytes, its time, its share of the read bandwidth."
)
@click.option("--tokens", type=int, default=1, show_default=True, help="Of --plan: a step of so many tokens, 1 to decode, more to prefill.")
@click.option("--depth", type=int, default=128, show_default=True, help="Of --plan: tokens in the cache before them.")
@click.option("--threads", type=int, help="Of --plan: threads to compute with.  [default: one per physical core]")
@click.option(
    "--layout",
    type=click.Choice(["multiply-add", "lookup"]),
    help="Of --plan: the kernels of every matrix of less than 8 bits.  [default: as `edgellm tune` chose, or else by the instruction set]",
)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def inspect(model: str, verify: bool, plan: bool, tokens: int, depth: int, threads: int | None, layout: str | None, as_json: bool) -> None:
    """Show what a model file holds, or with --plan, where the time of a token goes.

    Its config, tensors, schemes, bits per weight and provenance. X is a .tmac2.bin or GGUF file, a Hugging Face folder, or the name of
    a model in the cache.

    \b
    Examples:
      edgellm inspect smollm2-135m --verify
      edgellm inspect smollm2-135m --plan --threads 2
      edgellm inspect smollm2-135m --plan --tokens 128 --depth 0
    """
    _refuse_what_is_not_meant(plan)
    if plan:
        click.echo(_plan(model, tokens, depth, {"threads": threads, "layout": layout}, as_json))
        return
    from edgellm.formats import fetch, format_of, tmac2
    from edgellm.formats.inspect import describe

    path = fetch.resolve_model(model)
    if verify and (kind := format_of(path)) != "tmac2":
        raise InvalidRequestError(f"{path} cannot be verified: only a .tmac2.bin carries checksums, and its format is {kind}")
    problems = tmac2.verify(path) if verify else []
    description = describe(path)
    click.echo(json.dumps(description, indent=1) if as_json else _description_text(description))
    if problems:
        raise ModelFileError(f"{path} is damaged: {'; '.join(problems)}")
    if verify:
        click.echo("all checksums match", err=True)


def _refuse_what_is_not_meant(plan: bool) -> None:
    """InvalidRequestError for an option of `inspect` that would change nothing."""
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    if ignored := sorted(given & ({"verify"} if plan else {"tokens", "depth", "threads", "layout"})):
        which = ", ".join(f"--{name}" for name in ignored)
        raise InvalidRequestError(f"with --plan, {which} would do nothing" if plan else f"without --plan, {which} would do nothing")


def _plan(model: str, tokens: int, depth: int, options: dict[str, Any], as_json: bool) -> str:
    """What `inspect --plan` shows."""
    from edgellm.formats import fetch
    from edgellm.measure import roofline
    from edgellm.runtime.engine import Engine

    profiled = roofline.profile(Engine(fetch.resolve_model(model), fixed_team=True, **options), tokens, depth, rounds=20)
    return json.dumps(roofline.as_json(profiled), indent=1) if as_json else roofline.table(profiled)


def _description_text(description: dict[str, Any]) -> str:
    """`formats.inspect.describe` for reading."""
    lines = [
        f"{description['name']}: {description['format']}",
        f"{description['weights'] / 1e6:.1f} M weights in {description['bytes'] / 1e6:.1f} MB",
        f"{description['bits_per_weight']:.2f} bits per weight, scales included",
        f"activations: {description['activations']}",
        f"context length: {_shown(description['context_length'])}; chat template: {'yes' if description['chat_template'] else 'no'}",
        "",
        "provenance",
        *(f"  {key}: {_shown(value)}" for key, value in description["provenance"].items()),
        "",
        "config",
        *(f"  {key}: {_shown(value)}" for key, value in description["config"].items()),
        "",
        "schemes",
        *(
            f"  {totals_text(form, total['tensor_count'], total['weights'], total['bytes'])}"
            for form, total in description["schemes"].items()
        ),
        "",
        "tensors",
        *(
            f"  {tensor['name']:48} {' x '.join(map(str, tensor['shape'])):>16} {tensor['scheme']:14} {tensor['bytes']:>12,} bytes"
            for tensor in description["tensors"]
        ),
    ]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A value of a config or provenance as text: words as they are, "none" for nothing, a list's items in a row."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
