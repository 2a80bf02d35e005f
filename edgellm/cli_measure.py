"""`edgellm bench`, `tune`, `eval`, `report` and `energy`: how fast and how good a model is here, and what that costs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from edgellm.cli_options import DEFAULT_MODEL, FAILED, counts, model_option, realtime_option
from edgellm.errors import InvalidRequestError


@click.command()
@model_option
@click.option(
    "-p",
    "--prompt-sizes",
    callback=counts,
    metavar="N[,N...]",
    default="128",
    show_default=True,
    help='Tokens to prefill (pp128); "" for none.',
)
@click.option(
    "-n", "--gen-sizes", callback=counts, metavar="N[,N...]", default="64", show_default=True, help='Tokens to decode (tg64); "" for none.'
)
@click.option(
    "-t", "--threads", callback=counts, metavar="N[,N...]", default="1", show_default=True, help="Numbers of threads, each measured."
)
@click.option("-r", "--rounds", type=int, default=10, show_default=True, help="Measurements of each; one more comes first, as a warm-up.")
@realtime_option
@click.option("--json", "destination", metavar="FILE|-", help="Write the records, raw samples included; - for standard output.")
def bench(
    model: str,
    prompt_sizes: list[int],
    gen_sizes: list[int],
    threads: list[int],
    rounds: int,
    realtime: bool,
    destination: str | None,
) -> None:
    """Measure prefill and decode throughput.

    Tests have the names and shapes of llama-bench: pp128 prefills 128 tokens, tg64 decodes 64.

    \b
    Example:
      edgellm bench -p 128 -n 64 -t 1,2 -r 10 --json results.json
    """
    from edgellm.formats import fetch
    from edgellm.measure import bench as benchmark
    from edgellm.measure.backends.edgellm import EdgeLLMBackend

    path = fetch.resolve_model(model)
    load = partial(EdgeLLMBackend, realtime=realtime)
    running = benchmark.run(path, prompt_sizes, gen_sizes, threads, rounds, progress=sys.stderr.isatty(), load=load)
    records: list[dict[str, Any]] = []
    try:
        with _results(destination) as files:
            for record in running:
                for keep in (records.append, *files):
                    keep(record)
    finally:
        if records:  # also after Ctrl-C: what was measured is shown and kept
            click.echo(benchmark.table(records), err=destination == "-")
            if destination == "-":
                click.echo(json.dumps(records, indent=1))


@click.command()
@click.argument("name", metavar="[X]", required=False)
@click.option("--model", metavar="NAME|PATH", help="Another way to say X.")
@click.option(
    "-t",
    "--threads",
    callback=counts,
    metavar="N[,N...]",
    default="",
    help="Numbers of threads, each tuned.  [default: 1, and the engine's]",
)
@click.option("-r", "--rounds", type=int, default=21, show_default=True, help="Measurements of each; one more comes first, as a warm-up.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written, raw samples included.")
def tune(name: str | None, model: str | None, threads: list[int], rounds: int, as_json: bool) -> None:
    """Choose the kernels that are fastest on this machine.

    Times both kinds of kernel, multiply-add and lookup, for each kind of matrix of a model, and writes the choice beside it, to
    X.tmac2.tune.json, which loading the model reads. The choice changes speed, never a bit of the result. It holds for this processor,
    this build, and the numbers of threads that were tuned: anything else is a warning, and tuned again. Takes some seconds; leave the
    machine alone meanwhile. X is a model as --model of the other commands takes it.

    \b
    Example:
      edgellm tune smollm2-135m
      edgellm inspect smollm2-135m --plan
    """
    from edgellm.formats import fetch
    from edgellm.measure import tune as tuning
    from edgellm.runtime.cores import default_threads
    from edgellm.runtime.tuning import tuning_path

    if name and model:
        raise InvalidRequestError(f"one model is tuned at a time; given were {name!r} and --model {model!r}")
    path = fetch.resolve_model(name or model or DEFAULT_MODEL)
    document = tuning.tune(path, threads or [1, default_threads()], rounds, progress=sys.stderr.isatty())
    click.echo(json.dumps(document, indent=1) if as_json else tuning.table(document))
    click.echo(f"written: {tuning_path(path)}", err=True)


@click.command("eval")
@click.argument("model", metavar="[X]", default=DEFAULT_MODEL)
@click.option("--tasks", default="", metavar="NAMES", help="Tasks of those above, with commas between them; or task files, X.yaml.")
@click.option(
    "--limit",
    type=int,
    metavar="N",
    help="Ask N items of each task, or score N windows of 1024 tokens of each text.  [default: all items; 8 windows]",
)
@click.option(
    "--against", metavar="Y", help="Ask another model the same: by how much X scores more, with the 95% interval of the paired difference."
)
@click.option("--threads", type=int, help="Threads to compute with.  [default: one per physical core]")
@click.option("--context", type=int, help="Tokens that a text may have; of a longer one the beginning is left out.  [default: up to 8192]")
@click.option(
    "--bos/--no-bos", default=None, help="Of --tasks: begin prompts with a BOS token, or don't.  [default: as the tokenizer has it]"
)
@click.option(
    "--activations",
    type=click.Choice(["int8", "float32"]),
    default="int8",
    show_default=True,
    help="float32 leaves activations as they are, to see what the kernels' int8 costs: slowly, and with 4 bytes for each weight.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end, the values of every item included.")
def evaluate(model: str, tasks: str, limit: int | None, against: str | None, as_json: bool, **options: Any) -> None:
    """Measure how well a model predicts texts, or answers the questions of benchmarks.

    Without --tasks it is the perplexity of a text that every Python carries, its language reference, and of those in the folder that
    EDGELLM_DATA names, where it does; with and without a BOS token before each window. Tasks are asked by lm-eval (pip install
    'edgellm[eval]'), with the questions in that folder, or else from the Hugging Face hub. X and Y are each the name of a converted
    model in the cache, or a .tmac2.bin or GGUF file.

    \b
      share of right choices: hellaswag arc_easy arc_challenge piqa winogrande openbookqa mmlu
      share of exact answers: nq_open            BLEU of translations: multi30k_en_de multi30k_en_fr
      perplexity of words and bytes: wikitext

    A figure is followed by its standard error, of a share of 500 items about 0.02. The N items of --limit are the first of a fixed shuffle.
    Every answer is kept as it comes, in the cache: a run of tasks that is stopped, or asked more items later, goes on where it was.

    \b
    Examples:
      edgellm eval smollm2-135m
      edgellm eval smollm2-135m --tasks hellaswag,arc_easy --limit 500
      edgellm quantize smollm2-135m --scheme ternary --method rtn
      edgellm eval smollm2-135m.ternary-rtn --tasks hellaswag --limit 500 --against smollm2-135m --json > delta.json
      python -m edgellm.evaluate --model edgellm --model_args pretrained=smollm2-135m --tasks boolq     # any task that lm-eval has
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of lm-eval's own, which ask nobody; read when tqdm is imported
    from edgellm import cli_eval

    names = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    request = cli_eval.Request(names, limit, progress=sys.stderr.isatty(), **options)
    cli_eval.check(request)
    evaluated = [cli_eval.evaluate(one, request, quiet=as_json) for one in (model, against) if one]
    if as_json:
        click.echo(cli_eval.as_json(evaluated, request))
    elif against:
        click.echo(cli_eval.comparison(evaluated))


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["text", "markdown", "latex"]), default="text", show_default=True, help="How it is written."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write.  [default: standard output]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead: claims, figures, files.")
def report(files: tuple[Path, ...], form: str, output: Path | None, as_json: bool) -> None:
    """Summarise measurements and judge the project's claims by them.

    FILE is what `nox -s perf` and `nox -s quality` write into results/, what `edgellm bench --json` writes, or the journal of a run that
    did not end. What different machines or builds measured stands apart. A file that cannot be read is an error, after the report of
    the others.

    \b
    Examples:
      edgellm report results/*.json
      edgellm report results/*.json --format latex -o results.tex
    """
    from edgellm.formats.atomic import replacing
    from edgellm.report import render
    from edgellm.report.overview import as_json as json_of
    from edgellm.report.overview import blocks, make_report

    made = make_report(files)
    text = json.dumps(json_of(made), indent=1) + "\n" if as_json else render.FORMATS[form](list(blocks(made)))
    if made.sources and output:
        with replacing(output) as file:
            file.write(text.encode(errors="replace"))
    elif made.sources:
        click.echo(text, nl=False)
    for problem in made.problems:
        click.echo(f"error: {problem}", err=True)
    if made.problems:
        click.get_current_context().exit(FAILED)


@click.command()
@click.option("--log", type=click.Path(path_type=Path), metavar="CSV", help="What a power meter recorded while a run kept its timetable.")
@click.option("--of", type=click.Path(path_type=Path), metavar="FILE", help="The results of that run.")
@click.option("--test", metavar="NAME", help="The test of FILE; needed only where several kept a timetable.")
@click.option(
    "--offset", type=float, metavar="SECONDS", help="The log's clock minus the run's; 0 = the same.  [default: found by the load]"
)
@click.option("--within", type=float, metavar="SECONDS", help="How far --offset may be wrong.  [default: the log's sampling period]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write results that `edgellm report` reads.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each; with --log, the record.")
def energy(log: Path | None, of: Path | None, as_json: bool, **options: Any) -> None:
    """Show who can measure energy here, or read a power meter's log.

    Joules per token are measured by the first that is there (`nox -s perf`, or in your own tests the fixture `energy_runs`); nothing is
    ever estimated from the processor's load. With a USB power meter that gives its log afterwards: start its recording, measure with
    --energy later, stop it, export CSV, and read it with --log.

    \b
    Examples:
      edgellm energy
      nox -s perf -- --energy usb-meter=live.csv -k energy
      nox -s perf -- --energy later -k energy
      edgellm energy --log meter.csv --of results/latency.json -o results/energy.json
    """
    from edgellm import cli_energy

    if log and of:
        cli_energy.read_meter(log, of, as_json=as_json, **options)
    elif log or of or any(value is not None for value in options.values()):
        raise InvalidRequestError("a power meter's log is read with both --log CSV and --of FILE; without them, only --json is an option")
    else:
        cli_energy.show_providers(as_json)


@contextmanager
def _results(destination: str | None) -> Iterator[list[Callable[[dict[str, Any]], object]]]:
    """What keeps a record: the results file of that name, written before anything is measured; nothing for None and "-"."""
    if destination is None or destination == "-":
        yield []
        return
    from edgellm.measure.fingerprint import fingerprint
    from edgellm.measure.results import ResultsFile

    with ResultsFile(Path(destination), kind="bench", fingerprint=fingerprint()) as results:
        yield [results.append]
