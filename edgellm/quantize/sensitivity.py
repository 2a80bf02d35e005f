"""What each matrix costs in each scheme, in nats of the model's predictions: measured for each kind of matrix, shared out by output errors.

Every layer's matrix of a kind (q_proj, down_proj, ..) is quantized in one scheme, alone, and the Kullback-Leibler divergence of the model's
next-token probabilities from the unquantized model's is measured. A single matrix's part of it is as its relative squared output error is
to the kind's; in another scheme, it grows or shrinks like that error. So one forward pass a kind does for all matrices and schemes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edgellm.formats import open_checkpoint
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.digest import sha256_of
from edgellm.formats.matrix import F32, QuantizedMatrix, Scheme
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import DecoderWeights, forward
from edgellm.ops.dense import Dense, DenseMatrix, Rounding
from edgellm.ops.interface import I32, KEY_TILE, Step
from edgellm.quantize.calibrate import CalibrationText, sequences
from edgellm.quantize.gptq import Factor, columns_of_a_group, gptq, output_error
from edgellm.quantize.stream import HALVES, Stream
from edgellm.runtime.weights import load_dense
from edgellm.runtime.workspace import new_cache, new_state
from edgellm.text.tokenizer import Tokenizer

F64 = npt.NDArray[np.float64]

SCHEMES = ("ternary-g64", "int2-min-g64", "int3-min-g192", "int3-min-g64", "int4-min-g64", "int8-g32")
MEASURED = "int3-min-g64"
"""The scheme in which a kind's divergence is measured: large enough to rise above rounding, small enough to add up."""
SEQUENCES = 8
TOKENS = 512
"""Of each text, on which divergences are measured."""
ACTIVATIONS: Rounding = "int8-g32"


def sensitivity(source: Path, texts: Sequence[CalibrationText], progress: bool = True) -> dict[str, Any]:
    """Of the model at `source`, as a JSON object: for each matrix of its layers and each of SCHEMES, bytes, output_error and kl (nats)."""
    checkpoint = open_checkpoint(source)
    config = ModelConfig.from_hf(checkpoint.config)
    weights = load_dense(checkpoint, config)
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config)
    tokens = sequences(texts, lambda text: tokenizer.encode(text, special=False), tokenizer.bos_id, SEQUENCES)
    stream = Stream(config, tokens, weights.embed_tokens.weights, tokenizer.bos_id, ACTIVATIONS)
    errors, measured = _errors(weights, stream, progress)
    divergences = dict(_divergences(config, weights, tokens[:: max(1, len(tokens) // len(texts)), :TOKENS], measured, progress))
    return {
        "schema": "edgellm-sensitivity",
        "source": source.name,
        "source_sha256": sha256_of(source),
        "calibration": [{"name": text.name, "sha256": text.sha256} for text in texts],
        "measured": {"scheme": MEASURED, "kl_of_kinds": divergences},
        "tensors": dict(_tensors(checkpoint, errors, divergences)),
    }


Errors = dict[tuple[int, str], dict[str, float]]
"""Of layer and kind: scheme -> relative squared output error."""


def _errors(weights: DecoderWeights[DenseMatrix], stream: Stream, progress: bool) -> tuple[Errors, dict[str, dict[int, QuantizedMatrix]]]:
    """Output errors, and by kind and layer the matrices in the scheme that is measured."""
    errors: Errors = {}
    measured: dict[str, dict[int, QuantizedMatrix]] = defaultdict(dict)
    for index, layer in enumerate(tqdm(weights.layers, desc="output errors", unit="layer", disable=not progress)):
        for half in HALVES:
            for given in stream.inputs(index, half, layer):
                for scheme in map(Scheme.parse, SCHEMES):
                    factor = Factor.of(given.hessian, columns_of_a_group(scheme, len(given.hessian)))
                    for kind in given.readers:
                        dense: F32 = getattr(layer, kind).weights
                        matrix = gptq(kind, dense, factor, scheme).matrix
                        error, total = output_error(dense, matrix, given.hessian)
                        errors.setdefault((index, kind), {})[str(scheme)] = error / total if total else 0.0
                        if str(scheme) == MEASURED:
                            measured[kind][index] = matrix
            stream.advance(index, half, layer)
    return errors, measured


def _divergences(
    config: ModelConfig,
    weights: DecoderWeights[DenseMatrix],
    tokens: I32,
    measured: Mapping[str, Mapping[int, QuantizedMatrix]],
    progress: bool,
) -> Iterator[tuple[str, float]]:
    """Of each kind: the mean divergence over the tokens with all its matrices quantized, in nats."""
    expected = [_log_probabilities(config, weights, row) for row in tokens]
    for kind, matrices in tqdm(measured.items(), desc="divergences", unit="kind", disable=not progress):
        changes: list[dict[str, Any]] = [{kind: DenseMatrix(matrices[i].dequantize())} for i in range(len(weights.layers))]
        changed = replace(weights, layers=tuple(replace(layer, **change) for layer, change in zip(weights.layers, changes, strict=True)))
        found = [_divergence(p, _log_probabilities(config, changed, row)) for p, row in zip(expected, tokens, strict=True)]
        yield kind, float(f"{np.mean(found):.4e}")


def _log_probabilities(config: ModelConfig, weights: DecoderWeights[DenseMatrix], tokens: npt.NDArray[np.int32]) -> F32:
    """float32 [L, V], after each token."""
    room = -(-len(tokens) // KEY_TILE) * KEY_TILE
    cache, _ = new_cache(config, room, np.float32)
    state, _ = new_state(config, cache, len(tokens), room, exact=True)
    step = Step()
    step.set(0, len(tokens), len(tokens))
    state.tokens_L[: len(tokens)] = tokens
    forward(Dense(ACTIVATIONS), config, weights, state, step)
    logits = state.logits_LV
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return logits


def _divergence(p: F32, q: F32) -> float:
    """Mean over rows of sum exp(p) (p - q)."""
    return float((np.exp(p) * (p - q)).sum(axis=1, dtype=np.float64).mean())


def _tensors(checkpoint: Checkpoint, errors: Errors, divergences: Mapping[str, float]) -> Iterator[tuple[str, dict[str, Any]]]:
    totals: dict[str, float] = defaultdict(float)
    for (_, kind), found in errors.items():
        totals[kind] += found[MEASURED]
    for (index, kind), found in errors.items():
        name = next(name for name in checkpoint.tensors if name.startswith(f"model.layers.{index}.") and name.endswith(f".{kind}.weight"))
        shape = checkpoint.tensors[name].shape
        nats = divergences[kind] / totals[kind] if totals[kind] else 0.0
        schemes = {
            scheme: {
                "bytes": Scheme.parse(scheme).nbytes(*shape),
                "output_error": float(f"{error:.4e}"),
                "kl": float(f"{nats * error:.4e}"),
            }
            for scheme, error in found.items()
        }
        yield name, {"weights": shape[0] * shape[1], "schemes": schemes}
