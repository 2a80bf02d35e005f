"""`edgellm quantize` and `edgellm sensitivity`: a model in fewer bits, and what each matrix would cost."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.errors import InvalidRequestError

if TYPE_CHECKING:
    from edgellm.formats.matrix import Scheme
    from edgellm.quantize.convert import ConversionReport
    from edgellm.quantize.quantize import QuantizationReport, Recipe


@click.command()
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
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="Of reconstruct: of weights, as a part of the distance between the scheme's levels.  [default: 0.01]",
)
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
def quantize(
    source: str,
    output: Path | None,
    *,
    scheme: str,
    group: str | None,
    head: str,
    activations: str | None,
    method: str | None,
    calibration: Sequence[Path],
    mixed: Path | None,
    windows: int | None,
    epochs: int | None,
    learning_rate: float | None,
    as_json: bool,
    **targets: Any,
) -> None:
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
    from edgellm.formats import fetch
    from edgellm.quantize.calibrate import calibration_texts
    from edgellm.quantize.quantize import FAMILIES, Recipe
    from edgellm.quantize.quantize import quantize as run

    if group and scheme not in FAMILIES:
        raise InvalidRequestError(f"--scheme {scheme} says its grouping already, or is unknown (see --help); leave --group {group} out")
    method = method or ("rtn" if scheme.startswith("int8") else "gptq")
    grouping = "" if group is None else f"-g{group}" if group.isdigit() else f"-{group}"
    recipe = Recipe.named(scheme + grouping, head, activations and f"int8-{activations}", method)
    recipe = _with_training(recipe, windows, epochs, learning_rate)
    path = fetch.resolve_source(source)
    if mixed is None and any(target is not None for target in targets.values()):
        raise InvalidRequestError("--target-bits, --target-mb and --max-ppl-delta choose among the costs of --mixed FILE; give that, too")
    if mixed is not None:
        recipe = replace(recipe, tensors=_mixed(path, mixed, recipe, **targets))
    if method != "rtn":
        click.echo(f"calibration texts: {', '.join(text.name for text in calibration_texts(calibration))}", err=True)
    destination = output or fetch.default_destination(path, recipe.label)
    report = run(path, destination, recipe, progress=sys.stderr.isatty(), calibration=calibration)
    if as_json:
        click.echo(json.dumps(_as_json(report), indent=1))
        return
    click.echo(report.destination)
    click.echo("\n".join(_lines(report)), err=True)


@click.command()
@click.argument("source", metavar="SRC")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The JSON file to write.")
@click.option("--calibration", type=click.Path(path_type=Path), multiple=True, metavar="FILE", help="As of quantize.")
def sensitivity(source: str, output: Path, calibration: Sequence[Path]) -> None:
    """Measure what each matrix of a model costs in each scheme.

    In nats of what the model predicts: measured for each kind of matrix (q_proj, down_proj, ..), and shared out among layers and schemes by
    the error of what they put out. `edgellm quantize --mixed FILE` chooses schemes by it. SRC is as for convert; embedding and head are
    left out.

    \b
    Examples:
      edgellm sensitivity smollm2-135m -o costs.json
      edgellm quantize smollm2-135m --scheme int4-min --mixed costs.json --target-mb 70
    """
    from edgellm.formats import fetch
    from edgellm.formats.atomic import replacing
    from edgellm.quantize.calibrate import calibration_texts
    from edgellm.quantize.sensitivity import sensitivity as run

    texts = calibration_texts(calibration)
    click.echo(f"calibration texts: {', '.join(text.name for text in texts)}", err=True)
    costs = run(fetch.resolve_source(source), texts, progress=sys.stderr.isatty())
    with replacing(output) as file:
        file.write(json.dumps(costs, indent=1).encode())
    for kind, nats in costs["measured"]["kl_of_kinds"].items():
        click.echo(f"{kind:12} {nats:.4f} nats, all layers in {costs['measured']['scheme']}", err=True)
    click.echo(output)


def _with_training(recipe: Recipe, windows: int | None, epochs: int | None, learning_rate: float | None) -> Recipe:
    """The recipe with what was said of its training."""
    from edgellm.quantize.training.settings import Rates

    if (windows or epochs or learning_rate) and recipe.method != "reconstruct":
        raise InvalidRequestError("--windows, --epochs and --learning-rate are of --method reconstruct; leave them out, or give that")
    known = recipe.training
    rates = known.rates if learning_rate is None else Rates.of(learning_rate)
    return replace(recipe, training=replace(known, windows=windows or known.windows, epochs=epochs or known.epochs, rates=rates))


def _mixed(
    source: Path, path: Path, recipe: Recipe, *, target_bits: float | None, target_mb: float | None, max_ppl_delta: str | None
) -> dict[str, Scheme]:
    """The scheme of each tensor: as the plan says, or chosen by the one target that is given."""
    from edgellm.formats import open_checkpoint
    from edgellm.formats.matrix import Scheme
    from edgellm.formats.tensors import LazyTensors
    from edgellm.quantize import allocation
    from edgellm.quantize.quantize import target_of

    plan = allocation.read(path)
    given = [target for target in (target_bits, target_mb, max_ppl_delta) if target is not None]
    schemes = {name: value for name, value in plan.items() if isinstance(value, Scheme)}
    costs = {name: value for name, value in plan.items() if not isinstance(value, Scheme)}
    if len(given) != (1 if costs else 0):
        raise InvalidRequestError(
            f"{path} holds costs: give one of --target-bits, --target-mb and --max-ppl-delta"
            if costs
            else f"{path} says every scheme already; leave --target-bits, --target-mb and --max-ppl-delta out"
        )
    if not costs:
        return schemes
    if max_ppl_delta is not None:
        return allocation.within_nats(costs, math.log1p(_fraction(max_ppl_delta)))
    specs = LazyTensors.over(open_checkpoint(source).tensors).specs
    if target_bits is not None:
        return allocation.within_bytes(costs, target_bits / 8 * sum(spec.weights for name, spec in specs.items() if name in costs))
    assert target_mb is not None
    others = sum(target_of(name, spec, recipe).nbytes for name, spec in specs.items() if name not in costs)
    return allocation.within_bytes(costs, target_mb * 1e6 - others)


def _fraction(percent: str) -> float:
    """0.05 of "5%" or "5"."""
    try:
        value = float(percent.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidRequestError(f"--max-ppl-delta {percent} is no percentage above 0, such as 5%")
    return value


def _as_json(report: QuantizationReport) -> dict[str, Any]:
    """The report as JSON has it."""
    recipe = report.recipe
    return {
        "source": str(report.source),
        "destination": str(report.destination),
        "method": recipe.method,
        "scheme": str(recipe.body),
        "head": str(recipe.head or "keep"),
        "activations": report.activations,
        "source_bytes": report.source_bytes,
        "destination_bytes": report.destination_bytes,
        "bits_per_weight": report.bits_per_weight,
        "seconds": report.seconds,
        "quality": "not measured",
        "schemes": {
            form: {
                "tensor_count": part.tensors,
                "weights": part.weights,
                "bytes": part.nbytes,
                "bits_per_weight": part.bits_per_weight,
                "relative_squared_error": part.relative_squared_error,
            }
            for form, part in report.schemes.items()
        },
        "tensors": {name: asdict(part) for name, part in report.tensors.items()},
    }


def _lines(report: QuantizationReport) -> list[str]:
    """Of each form that tensors are stored in, and of the whole."""
    lines = []
    for form, part in report.schemes.items():
        error = part.relative_squared_error
        lines.append(
            f"{totals_text(form, part.tensors, part.weights, part.nbytes)} {part.bits_per_weight:6.2f} bits per weight"
            + ("" if error is None else f", relative squared error {error:.3e}")
        )
    return [*lines, f"{sizes_text(report)}; by {report.recipe.method}, quality not measured"]


def totals_text(form: str, tensors: int, weights: int, nbytes: int) -> str:
    """A line on the tensors that are stored in one form."""
    return f"{form:16} {tensors:4} tensors {weights / 1e6:9.1f} M weights {nbytes / 1e6:9.1f} MB"


def sizes_text(report: ConversionReport | QuantizationReport) -> str:
    """How large the model was, and is."""
    before, after = report.source_bytes / 1e6, report.destination_bytes / 1e6
    return f"{before:.1f} MB -> {after:.1f} MB, {report.bits_per_weight:.2f} bits per weight"
