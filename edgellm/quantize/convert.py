"""A model in any format that is read -> our model file, its matrices as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgellm.errors import UnsupportedModelError
from edgellm.formats.checkpoint import Tensor
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tensors import LazyTensors, TensorSpec
from edgellm.quantize import rewrite


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did. bits_per_weight counts scales and minimums, and the float tensors."""

    source: Path
    destination: Path
    tensors: int
    source_bytes: int
    destination_bytes: int
    bits_per_weight: float


def convert(source: Path, destination: Path, progress: bool = True) -> ConversionReport:
    """Write the model at `source` (a GGUF file, a Hugging Face folder or a .tmac2.bin) to `destination`, some rows of a tensor in
    memory at a time.

    Matrices stay as they are quantized, bit for bit; one that is not in a form that the file stores is refused by name. Norms become
    float32. `destination` is replaced only when all went well.

    InvalidRequestError: `destination` is the source or a file of it. UnsupportedModelError: a matrix that is not quantized, or otherwise
    than the file stores; a config or tokenizer that would be refused when the result is loaded. And what reading and writing raise.
    """
    checkpoint = rewrite.open_source(source, destination)
    specs = LazyTensors.over(checkpoint.tensors).specs
    targets = {name: _target(name, spec) for name, spec in specs.items()}
    kept = replace(checkpoint, provenance=rewrite.provenance(checkpoint, source, "keep"))
    rewrite.write(kept, destination, targets, _recode, progress)
    return ConversionReport(
        source=source,
        destination=destination,
        tensors=len(targets),
        source_bytes=sum(spec.nbytes for spec in specs.values()),
        destination_bytes=destination.stat().st_size,
        bits_per_weight=rewrite.bits_per_weight(targets),
    )


def _target(name: str, spec: TensorSpec) -> TensorSpec:
    """What a tensor becomes."""
    if len(spec.shape) == 1:
        return TensorSpec(spec.shape, "float32", spec.source_type)
    if spec.scheme is None:
        raise UnsupportedModelError(
            f"tensor {name} is {spec.source_type}, which cannot be stored as it is; round the weights: edgellm quantize SRC --scheme int8"
        )
    return spec


def _recode(_name: str, _rows: slice, tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, QuantizedMatrix) else tensor.astype(np.float32)
