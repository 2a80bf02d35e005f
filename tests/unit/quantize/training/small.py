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


def original(tokenizer_json: str = "{}", tied: bool = False) -> Checkpoint:
    return synthetic.checkpoint(tokenizer_json, tie_word_embeddings=tied)


def rounded(model: Checkpoint, scheme: str, activations: str = "int8-g32", head: str | None = None) -> Checkpoint:
    """Its decoder matrices rounded to nearest, and its head if that has a scheme, too."""
    schemes = {(HEAD if HEAD in model.tensors else EMBEDDING): head, EMBEDDING if HEAD in model.tensors else HEAD: None}

    def tensor(name: str) -> np.ndarray | QuantizedMatrix:
        found, wanted = model.tensors[name], schemes.get(name, scheme)
        if not isinstance(found, QuantizedMatrix) or wanted is None:
            return found
        return round_to_nearest(name, found.dequantize(), Scheme.parse(wanted))

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
