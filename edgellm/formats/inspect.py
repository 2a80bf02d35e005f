"""What a model file holds, told from its header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgellm.formats import READERS, format_of
from edgellm.formats.digest import sha256_of
from edgellm.formats.tensors import LazyTensors, TensorSpec


def describe(path: Path) -> dict[str, Any]:
    """A model in any format that is read, as a JSON-able dict: format, config, sizes, schemes, tensors, provenance.

    bits_per_weight counts what is stored for all weights: codes, scales, minimums and float tensors. source_sha256 is that of the file
    that the weights came from: this one, unless it is a .tmac2.bin. Raises what opening the file raises.
    """
    model_format = format_of(path)
    checkpoint = READERS[model_format](path)
    specs = LazyTensors.over(checkpoint.tensors).specs
    provenance = dict(checkpoint.provenance)
    provenance.setdefault("source_sha256", sha256_of(path))
    return {
        "name": path.resolve().name,
        "format": model_format,
        "config": checkpoint.config,
        "context_length": checkpoint.config.get("max_position_embeddings"),
        "activations": checkpoint.activations,
        "chat_template": checkpoint.chat_template,
        "provenance": provenance,
        **_totals(list(specs.values())),
        "schemes": {form: _totals([spec for spec in specs.values() if spec.form == form]) for form in _forms(specs)},
        "tensors": [_row(name, spec) for name, spec in specs.items()],
    }


def _forms(specs: dict[str, TensorSpec]) -> list[str]:
    return sorted({spec.form for spec in specs.values()})


def _totals(specs: list[TensorSpec]) -> dict[str, Any]:
    weights, nbytes = sum(spec.weights for spec in specs), sum(spec.nbytes for spec in specs)
    return {"tensor_count": len(specs), "weights": weights, "bytes": nbytes, "bits_per_weight": 8 * nbytes / weights}


def _row(name: str, spec: TensorSpec) -> dict[str, Any]:
    return {"name": name, "shape": list(spec.shape), "scheme": spec.form, "source_type": spec.source_type, "bytes": spec.nbytes}
