"""The command line: parse, call, print. Each command imports what it needs when it runs, so that --help is quick and needs no kernels."""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click
from click.core import ParameterSource

import edgellm
from edgellm import cli_train
from edgellm.cli_quantize import sizes_text, totals_text
from edgellm.errors import EdgeLLMError, EdgeLLMWarning, InvalidRequestError, ModelFileError

if TYPE_CHECKING:
    from edgellm.runtime.engine import Engine
    from edgellm.runtime.generate import GeneratedToken, Generation
    from edgellm.runtime.sampling import SamplingParams

DEFAULT_MODEL = "smollm2-135m"
INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., None])


class Failure(click.ClickException):
    """What the user can act on: one line on standard error, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:  # noqa: ARG002  click's signature
        """Print it."""
        click.echo(f"error: {self.message}", err=True)


class Commands(click.Group):
    """The command group: lists commands in the order of use, turns EdgeLLM's errors into exit codes and its warnings into lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """As they are defined below."""
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


@main.command()
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


@main.command()
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


@main.command()
@click.argument("source", metavar="SRC")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write, X.tmac2.bin.  [default: in the cache]")
@click.option(
    "--scheme",
    required=True,
    metavar="SCHEME",
    help="Of the decoder's matrices: ternary, tritplanes2, tritplanes3, int8, int4, int3, int2, int4-min, int3-min or int2-min; or one "
    "with its grouping, such as ternary-row or int4-min-g32.",
)
@click.option(
    "--group",
    type=click.Choice(["32", "64", "96", "128", "192", "256", "row", "tensor"]),
    help="Columns that share a scale, unless SCHEME says it.  [default: 64; of int8 32]",
)
@click.option(
    "--head",
    default="keep",
    show_default=True,
    metavar="SCHEME",
    help="Of embedding and head, in groups of 32 unless it says otherwise. keep: as they are quantized, int8 if they are not.",
)
@click.option(
    "--activations",
    type=click.Choice(["g32", "token"]),
    help="Activations are int8, with a scale per 32 of them or per token.  [default: as the source says; of most, g32]",
)
@click.option(
    "--method",
    type=click.Choice(["gptq", "rtn", "reconstruct"]),
    help="gptq: fitted to the inputs that calibration texts give each matrix, in minutes. reconstruct: each layer is then trained to give "
    "what the original's gives; it takes some times longer, and is best. rtn: round to nearest, in seconds.  [default: gptq; of int8, "
    "which loses next to nothing, rtn]",
)
@click.option("--windows", type=click.IntRange(1), help="Of reconstruct: calibration windows of 1024 tokens.  [default: 96]")
@click.option("--epochs", type=click.IntRange(1), help="Of reconstruct: how often each layer meets each of them.  [default: 3]")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Of gptq and reconstruct: a text, maybe gzipped (.gz); again for more. Two domains are better than one.  [default: those in the "
    "folder that EDGELLM_DATA names, else the topics of Python's help]",
)
@click.option(
    "--mixed",
    type=click.Path(path_type=Path),
    metavar="PLAN",
    help="A scheme for each tensor: a plan, or what `edgellm sensitivity` wrote with one of the next three. SCHEME is for the others.",
)
@click.option("--target-bits", type=float, metavar="BITS", help="Of --mixed: so many bits per weight of the matrices it has costs for.")
@click.option("--target-mb", type=float, metavar="MB", help="Of --mixed: so many megabytes (1e6) of all tensors together.")
@click.option("--max-ppl-delta", metavar="PERCENT", help="Of --mixed: at most so much more perplexity (5%), as the costs estimate it.")
@click.option("--json", "as_json", is_flag=True, help="Print a report of every tensor, as JSON.")
def quantize(source: str, output: Path | None, **options: Any) -> None:
    """Quantize a model's weights to fewer bits.

    SRC is as for convert. With gptq, each layer is fitted to the inputs that the layers before it, as quantized, give it on the
    calibration texts, and so is the head, if it is not int8. reconstruct needs pip install 'edgellm[train]'. When it is interrupted,
    the same command goes on where it was. Nothing here measures the result's quality. In the cache the model is called
    NAME.SCHEME-METHOD, as --model takes it.

    \b
    Examples:
      edgellm quantize smollm2-135m --scheme int4-min --calibration prose.txt --calibration code.txt.gz
      edgellm quantize smollm2-135m --scheme int2-min --method reconstruct --epochs 6
      edgellm quantize smollm2-135m --scheme ternary --head int4 --method rtn
      edgellm quantize model.gguf --scheme int4-min-g32 -o model.tmac2.bin
    """
    from edgellm import cli_quantize

    cli_quantize.quantize(source, output, **options)


main.add_command(cli_train.distill)


@main.command()
@click.argument("source", metavar="SRC")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The JSON file to write.")
@click.option("--calibration", type=click.Path(path_type=Path), multiple=True, metavar="FILE", help="As of quantize.")
def sensitivity(source: str, output: Path, calibration: tuple[Path, ...]) -> None:
    """Measure what each matrix of a model costs in each scheme.

    In nats of what the model predicts: measured for each kind of matrix (q_proj, down_proj, ..), and shared out among layers and schemes by
    the error of what they put out. `edgellm quantize --mixed FILE` chooses schemes by it. SRC is as for convert; embedding and head are
    left out.

    \b
    Examples:
      edgellm sensitivity smollm2-135m -o costs.json
      edgellm quantize smollm2-135m --scheme int4-min --mixed costs.json --target-mb 70
    """
    from edgellm import cli_quantize

    cli_quantize.sensitivity(source, output, calibration)


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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


@main.command("eval")
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


@main.command()
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
        click.get_current_context().exit(Failure.exit_code)


@main.command()
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
