"""What `edgellm quantize` does and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.errors import InvalidRequestError

if TYPE_CHECKING:
    from edgellm.quantize.convert import ConversionReport
    from edgellm.quantize.quantize import QuantizationReport


def quantize(
    source: str,
    output: Path | None,
    *,
    scheme: str,
    group: str | None,
    head: str,
    activations: str,
    method: str,
    calibration: Sequence[Path],
) -> None:
    """Write the model, say what became of its tensors, and on which texts."""
    from edgellm.formats import fetch
    from edgellm.quantize.calibrate import calibration_texts
    from edgellm.quantize.quantize import FAMILIES, Recipe
    from edgellm.quantize.quantize import quantize as run

    if group and scheme not in FAMILIES:
        raise InvalidRequestError(f"--scheme {scheme} says its grouping already, or is unknown (see --help); leave --group {group} out")
    grouping = "" if group is None else f"-g{group}" if group.isdigit() else f"-{group}"
    recipe = Recipe.named(scheme + grouping, head, f"int8-{activations}", method)
    path = fetch.resolve_source(source)
    if method == "gptq":
        click.echo(f"calibration texts: {', '.join(text.name for text in calibration_texts(calibration))}", err=True)
    destination = output or fetch.default_destination(path, recipe.label)
    report = run(path, destination, recipe, progress=sys.stderr.isatty(), calibration=calibration)
    click.echo(report.destination)
    click.echo("\n".join(_lines(report)), err=True)


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
