"""A small model to train, synthetic: random weights, two layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgellm.formats.architecture import EMBEDDING, HEAD
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import QuantizedMatrix, Scheme
from edgellm.quantize.rtn import round_to_nearest
from edgellm.quantize.training.tokens import Ids
from tests.unit.runtime import synthetic


def original(tokenizer_json: str = "{}") -> Checkpoint:
    return synthetic.checkpoint(tokenizer_json)


def rounded(model: Checkpoint, scheme: str, activations: str = "int8-g32") -> Checkpoint:
    """Its decoder matrices rounded to nearest."""

    def tensor(name: str) -> np.ndarray | QuantizedMatrix:
        found = model.tensors[name]
        if not isinstance(found, QuantizedMatrix) or name in (EMBEDDING, HEAD):
            return found
        return round_to_nearest(name, found.dequantize(), Scheme.parse(scheme))

    return replace(model, tensors={name: tensor(name) for name in model.tensors}, activations=activations)


def windows(count: int = 4, length: int = 24) -> Ids:
    return np.random.default_rng(0).integers(synthetic.VOCAB, size=(count, length))


def same_tensors(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    def parts(tensor: object) -> list[np.ndarray]:
        if isinstance(tensor, QuantizedMatrix):
            return [tensor.codes, tensor.scales, *([] if tensor.minimums is None else [tensor.minimums])]
        return [np.asarray(tensor)]

    pairs = [(a, b) for name in one for a, b in zip(parts(one[name]), parts(other[name]), strict=True)]
    return list(one) == list(other) and all(np.array_equal(a, b) for a, b in pairs)
