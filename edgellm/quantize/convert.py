"""A model in any format that is read -> our model file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import edgellm
from edgellm.errors import EdgeLLMError, InvalidRequestError, UnsupportedModelError
from edgellm.formats import open_checkpoint
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.digest import sha256_of
from edgellm.formats.hf import model_files
from edgellm.formats.matrix import INT8, QuantizedMatrix
from edgellm.formats.paths import exists, is_folder
from edgellm.formats.tensors import LazyTensors, TensorSpec
from edgellm.formats.tmac2 import write_tmac2
from edgellm.model.config import LlamaConfig
from edgellm.quantize.rtn import quantize_int8
from edgellm.text.tokenizer import Tokenizer

SCHEMES = ("keep", "int8")


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did. bits_per_weight counts scales and minimums, and the float tensors."""

    source: Path
    destination: Path
    scheme: str
    tensors: int
    source_bytes: int
    destination_bytes: int
    bits_per_weight: float


def convert(source: Path, destination: Path, scheme: str = "keep", progress: bool = True) -> ConversionReport:
    """Write the model at `source` (a GGUF file, a Hugging Face folder or a .tmac2.bin) to `destination`, one tensor in memory at a time.

    scheme "keep": matrices stay as they are quantized, bit for bit; one that is not in a form that the file stores is refused by name.
    scheme "int8": every matrix becomes int8-g32, rounded to nearest from its dequantised weights.
    Norms become float32. `destination` is replaced only when all went well.

    InvalidRequestError: no such scheme, or `destination` is the source or a file of it. UnsupportedModelError: a tensor that the scheme
    cannot store, a config or tokenizer that would be refused when the result is loaded. And what reading and writing raise.
    """
    if scheme not in SCHEMES:
        raise InvalidRequestError(f"scheme {scheme!r} is unknown; possible: {', '.join(SCHEMES)}")
    if is_folder(destination):
        raise InvalidRequestError(f"{destination} is a folder; give the name of a file, such as {destination / 'model.tmac2.bin'}")
    checkpoint = open_checkpoint(source)
    if exists(destination) and any(destination.samefile(file) for file in [source, *model_files(source)]):
        raise InvalidRequestError(f"{destination} is what is to be converted; give the name of another file")
    _require_loadable(checkpoint, source)
    tensors = LazyTensors.over(checkpoint.tensors)
    target = {name: _target(name, spec, scheme) for name, spec in tensors.specs.items()}
    with tqdm(total=len(target), unit="tensor", desc=destination.name, disable=not progress) as bar:

        def read(name: str) -> Tensor:
            bar.update()
            return _recode(name, tensors[name], target[name])

        write_tmac2(destination, replace(checkpoint, tensors=LazyTensors(target, read), provenance=_provenance(checkpoint, source, scheme)))
    return ConversionReport(
        source=source,
        destination=destination,
        scheme=scheme,
        tensors=len(target),
        source_bytes=sum(spec.nbytes for spec in tensors.specs.values()),
        destination_bytes=destination.stat().st_size,
        bits_per_weight=8 * sum(spec.nbytes for spec in target.values()) / sum(spec.weights for spec in target.values()),
    )


def _require_loadable(checkpoint: Checkpoint, source: Path) -> None:
    """Raise, before anything is written, what loading would raise."""
    try:
        LlamaConfig.from_hf(checkpoint.config)
        Tokenizer(checkpoint.tokenizer_json, checkpoint.config)
    except EdgeLLMError as error:
        raise type(error)(f"{source}: {error}") from error


def _target(name: str, spec: TensorSpec, scheme: str) -> TensorSpec:
    """What a tensor becomes under the scheme."""
    if len(spec.shape) == 1:
        return TensorSpec(spec.shape, "float32", spec.source_type)
    if scheme == "int8":
        return TensorSpec(spec.shape, str(INT8), spec.source_type)
    if spec.scheme is None:
        raise UnsupportedModelError(f"tensor {name} is {spec.source_type}, which scheme 'keep' cannot store losslessly; use --scheme int8")
    return spec


def _recode(name: str, tensor: Tensor, target: TensorSpec) -> Tensor:
    """The tensor in its target's form."""
    if isinstance(tensor, QuantizedMatrix):
        return tensor if str(tensor.scheme) == target.form else quantize_int8(name, tensor.dequantize())
    floats = tensor.astype(np.float32)
    return quantize_int8(name, floats) if target.scheme else floats


def _provenance(checkpoint: Checkpoint, source: Path, scheme: str) -> dict[str, Any]:
    """The checkpoint's provenance and this step. A model converted again keeps its first source and lists every scheme it went through."""
    origin = dict(checkpoint.provenance)
    origin.setdefault("source_sha256", sha256_of(source))
    steps = [*origin.get("schemes", []), scheme]
    return origin | {"schemes": steps, "calibration": None, "tool": f"edgellm {edgellm.__version__}"}
