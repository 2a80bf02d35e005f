"""What every way from a model that is read to our model file has in common: what is refused, what is recorded, how it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import edgellm
from edgellm.errors import EdgeLLMError, InvalidRequestError
from edgellm.formats import open_checkpoint
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.digest import sha256_of
from edgellm.formats.hf import model_files
from edgellm.formats.mapped import drop_pages
from edgellm.formats.paths import exists, is_folder
from edgellm.formats.tensors import LazyTensors, TensorSpec
from edgellm.formats.tmac2 import write_tmac2
from edgellm.model.config import ModelConfig
from edgellm.text.tokenizer import Tokenizer

Recode = Callable[[str, slice, Tensor], Tensor]
"""From a tensor's name and some rows of it, which ones and as the source has them, to what is stored."""


def open_source(source: Path, destination: Path) -> Checkpoint:
    """The model at `source`, once it is certain that it would load and that `destination` may be written.

    InvalidRequestError: `destination` is a folder, the source, or a file of it. What opening the model and loading it raise.
    """
    if is_folder(destination):
        raise InvalidRequestError(f"{destination} is a folder; give the name of a file, such as {destination / 'model.tmac2.bin'}")
    checkpoint = open_checkpoint(source)
    if exists(destination) and any(destination.samefile(file) for file in [source, *model_files(source)]):
        raise InvalidRequestError(f"{destination} is what is to be converted; give the name of another file")
    try:
        ModelConfig.from_hf(checkpoint.config)
        Tokenizer(checkpoint.tokenizer_json, checkpoint.config)
    except EdgeLLMError as error:
        raise type(error)(f"{source}: {error}") from error
    return checkpoint


def write(checkpoint: Checkpoint, destination: Path, targets: Mapping[str, TensorSpec], recode: Recode, progress: bool) -> None:
    """Write the model with its tensors as `targets` has them, in memory only some rows of one, under a progress bar that counts weights."""
    tensors = LazyTensors.over(checkpoint.tensors)
    weights = sum(spec.weights for spec in targets.values())
    with tqdm(total=weights, unit="weights", unit_scale=True, desc=destination.name, disable=not progress) as bar:

        def read(name: str, rows: slice) -> Tensor:
            source = tensors.rows(name, rows)
            tensor = recode(name, rows, source)
            if tensor is not source:
                drop_pages(source)
            bar.update(math.prod(source.shape))
            return tensor

        write_tmac2(destination, replace(checkpoint, tensors=LazyTensors(targets, read)))


def provenance(checkpoint: Checkpoint, source: Path, step: str) -> dict[str, Any]:
    """The checkpoint's provenance and this step. A model that is rewritten again keeps its first source and lists every step."""
    origin = dict(checkpoint.provenance)
    origin.setdefault("source_sha256", sha256_of(source))
    origin.setdefault("calibration", None)
    return origin | {"schemes": [*origin.get("schemes", []), step], "tool": f"edgellm {edgellm.__version__}"}


def bits_per_weight(specs: Mapping[str, TensorSpec]) -> float:
    """Bits stored for a weight: codes, scales and minimums, and the float tensors."""
    return 8 * sum(spec.nbytes for spec in specs.values()) / sum(spec.weights for spec in specs.values())
