"""A model's layers quantized by GPTQ one after the other, each fitted to the inputs that the layers before it, quantized, give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from edgellm.formats.architecture import EMBEDDING
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import QuantizedMatrix, Scheme
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import F32, LayerWeights
from edgellm.ops.dense import DenseMatrix, Rounding
from edgellm.quantize.calibrate import CalibrationText, sequences
from edgellm.quantize.gptq import Factor, columns_of_a_group, gptq, output_error
from edgellm.quantize.partial import Finished, Partial
from edgellm.quantize.rtn import round_to_nearest
from edgellm.quantize.stream import HALVES, Inputs, Stream
from edgellm.runtime.weights import dense_matrix, layer_weights
from edgellm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Plan:
    """What is to be made. schemes: of the tensors that are rounded; others stay. texts: what the layers are fitted to."""

    schemes: Mapping[str, Scheme]
    texts: Sequence[CalibrationText]
    activations: Rounding


def quantize_layers(checkpoint: Checkpoint, plan: Plan, partial: Partial, progress: bool) -> None:
    """Put every layer's matrices into `partial`, as "layer-0" and so on, and before them the embedding, as "embedding", if it is rounded.

    Layers that are there already are only run, so that the result has the same bits as one that was not interrupted.
    """
    config = ModelConfig.from_hf(checkpoint.config)
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config)
    tokens = sequences(plan.texts, lambda text: tokenizer.encode(text, special=False), tokenizer.bos_id)
    stream = Stream(config, tokens, _embedding(checkpoint, plan, partial), tokenizer.bos_id, plan.activations)
    for index in tqdm(range(config.num_hidden_layers), desc="gptq", unit="layer", disable=not progress):
        names: dict[str, str] = {}
        layer = _dense_layer(checkpoint, config, index, names)
        known = partial.load(f"layer-{index}")
        finished = known or {}
        for half in HALVES:
            if known is None:
                finished |= _quantized(layer, names, stream.inputs(index, half, layer), plan)
            layer = _with(layer, names, finished)
            stream.advance(index, half, layer)
        if known is None:
            partial.store(f"layer-{index}", finished)


def _embedding(checkpoint: Checkpoint, plan: Plan, partial: Partial) -> F32:
    """The embedding as it will be stored, so that the layers make up for its error; round to nearest is all that is known for it."""
    weights = dense_matrix(checkpoint.tensors[EMBEDDING]).weights
    if EMBEDDING not in plan.schemes:
        return weights
    finished = partial.load("embedding")
    if finished is None:
        matrix = round_to_nearest(EMBEDDING, weights, plan.schemes[EMBEDDING])
        finished = {EMBEDDING: Finished(matrix, float("nan"))}
        partial.store("embedding", finished)
    embedding: F32 = finished[EMBEDDING].matrix.dequantize()
    return embedding


def _dense_layer(checkpoint: Checkpoint, config: ModelConfig, index: int, names: dict[str, str]) -> LayerWeights[DenseMatrix]:
    """A layer's weights as float32. names: filled with the tensor that each field of `LayerWeights` is: q_proj -> ...q_proj.weight."""

    def matrix(name: str) -> DenseMatrix:
        names[name.split(".")[-2]] = name
        return dense_matrix(checkpoint.tensors[name])

    return layer_weights(config, index, matrix, lambda name: np.asarray(checkpoint.tensors[name], np.float32))


def _quantized(layer: LayerWeights[DenseMatrix], names: Mapping[str, str], inputs: Sequence[Inputs], plan: Plan) -> dict[str, Finished]:
    """The layer's matrices that are rounded."""
    finished: dict[str, Finished] = {}
    for given in inputs:
        factors: dict[int, Factor] = {}
        for reader in given.readers:
            scheme = plan.schemes.get(names[reader])
            if scheme is None:
                continue
            group = columns_of_a_group(scheme, len(given.hessian))
            if group not in factors:
                factors[group] = Factor.of(given.hessian, group)
            weights: F32 = getattr(layer, reader).weights
            matrix = gptq(names[reader], weights, factors[group], scheme).matrix
            finished[names[reader]] = Finished(matrix, _relative_error(weights, matrix, given))
    return finished


def _relative_error(weights: F32, matrix: QuantizedMatrix, given: Inputs) -> float:
    error, total = output_error(weights, matrix, given.hessian)
    return float(f"{error / total if total else 0.0:.3e}")


def _with(layer: LayerWeights[DenseMatrix], names: Mapping[str, str], finished: Mapping[str, Finished]) -> LayerWeights[DenseMatrix]:
    """The layer as it is quantized."""
    done: dict[str, Any] = {field: DenseMatrix(finished[name].matrix.dequantize()) for field, name in names.items() if name in finished}
    return replace(layer, **done)
