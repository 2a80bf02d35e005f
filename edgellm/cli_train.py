"""`edgellm distill`: train a quantized model to predict what its original predicts. Needs the extra `train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgellm.errors import InvalidRequestError


@click.command()
@click.argument("source", metavar="SRC")
@click.option("--from", "start", required=True, metavar="X", help="SRC in fewer bits, by `edgellm quantize`: where to start.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write, Y.tmac2.bin.")
@click.option(
    "--calibration",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A text to train on, maybe .gz; again for more.  [default: as of quantize, or none with --generated-tokens]",
)
@click.option("--length", type=click.IntRange(8), default=512, show_default=True, help="Tokens of a window of text.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=2e-3,
    show_default=True,
    help="Of weights, as a part of the distance between the scheme's levels.",
)
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    help="Of products.  [default: bfloat16 on a GPU, or where the processor has it]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn.")
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="Where the run keeps its states.  [default: OUTPUT.run]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="All of it takes so long: text, training, evaluation, writing.")
@click.option("--steps", type=click.IntRange(1), help="Train for so many steps instead, however long they take.")
@click.option(
    "--generated-tokens",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of text that SRC writes itself, kept in the cache.",
)
@click.option("--batch-tokens", type=click.IntRange(1), help="Tokens of a step.  [default: 2048; 16384 on a GPU]")
@click.option("--micro-batch-tokens", type=click.IntRange(1), help="Of them, those in memory together.  [default: 1024; all on a GPU]")
@click.option("--scales-only", is_flag=True, help="Leave the codes as they are; train scales, minimums and norms.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda if torch finds a GPU]")
@click.option("--compile", "compiled", is_flag=True, help="Have torch compile the model: minutes at first, faster steps then.")
@click.option("--evaluate-every", type=click.IntRange(1), default=100, show_default=True, help="Steps.")
@click.option("--save-every", type=click.FloatRange(0), default=5, show_default=True, help="Minutes. The last two states are kept.")
def distill(
    minutes: float | None,
    steps: int | None,
    generated_tokens: int,
    batch_tokens: int | None,
    micro_batch_tokens: int | None,
    scales_only: bool,
    device: str | None,
    compiled: bool,
    evaluate_every: int,
    save_every: float,
    learning_rate: float,
    precision: str | None,
    **files: Any,
) -> None:
    """Train a quantized model to predict what the original predicts, all layers at once: in minutes on a GPU, in an hour on a processor.

    It takes text: --calibration, --generated-tokens, or both; where neither is given, what quantize takes. The folder of the run has
    log.jsonl, and curve.png if matplotlib is there.
    With --minutes the steps are planned by the speed that is measured, so that a GPU that is lent for half an hour is used for all of it:
    --minutes 28. The same command goes on with a run that was interrupted, within what is left of its minutes. Ctrl-C, or SIGTERM, lets a
    step end and keeps it.

    \b
    Example:
      edgellm distill smollm2-135m --from ternary.tmac2.bin --generated-tokens 20000000 --minutes 28 -o distilled.tmac2.bin
    """
    from edgellm.quantize.training import require_packages

    require_packages()
    from edgellm.formats import fetch
    from edgellm.quantize.training import distill as training
    from edgellm.quantize.training.files import distill_file
    from edgellm.quantize.training.numerics import choose_device, default_precision
    from edgellm.quantize.training.settings import Rates

    if (minutes is None) == (steps is None):
        raise InvalidRequestError("say how long to train, by one of --minutes and --steps")
    device, length = choose_device(device), files["length"]
    batch_tokens = batch_tokens or (2048 if device == "cpu" else 16384)
    batch = max(1, batch_tokens // length)
    micro_batch = max(1, (micro_batch_tokens or (1024 if device == "cpu" else batch_tokens)) // length)
    settings = training.Settings(
        rates=Rates.of(learning_rate),
        steps=steps,
        batch=batch,
        micro_batch=min(micro_batch, batch),
        scales_only=scales_only,
        seed=files["seed"],
        precision=precision or default_precision(device),
    )
    if not files["calibration"] and generated_tokens:
        files["calibration"] = None
    job = _job(**files)
    plan = training.Plan(evaluate_every=evaluate_every, save_every=60 * save_every, compiled=compiled, device=device, progress=job.progress)
    outcome = distill_file(job, settings, plan, generated_tokens, minutes, fetch.home() / "teacher-text")
    click.echo(job.destination)
    click.echo(
        f"{outcome.steps} steps, {outcome.tokens} tokens; perplexity of the held-out text {outcome.first_perplexity:.2f} -> "
        f"{outcome.perplexity:.2f}, of the original {outcome.teacher_perplexity:.2f}",
        err=True,
    )


def _job(
    source: str, start: str, output: Path, calibration: tuple[Path, ...] | None, length: int, seed: int, run_folder: Path | None
) -> Any:
    from edgellm.formats import fetch
    from edgellm.quantize.training.files import Job

    return Job(
        original=fetch.resolve_source(source),
        start=fetch.resolve_model(start),
        destination=output,
        run_folder=run_folder or output.with_name(f"{output.name}.run"),
        calibration=calibration,
        length=length,
        seed=seed,
        progress=sys.stderr.isatty(),
    )
