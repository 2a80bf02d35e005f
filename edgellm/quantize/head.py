"""The head in few bits, by GPTQ for the states that it is given, because its error is in every logit.

A head of its own is fitted last, to what the quantized layers give it. One that is the embedding too comes first, so that the layers meet
the embedding as it will be stored, and is fitted to what the original layers give: one more pass over the calibration texts. As an
embedding its rows are what the layers start from, where an error counts in every direction: TIED_RIDGE stands for that.

An embedding that is no head meets no inputs, and int8 loses next to nothing: these are rounded to nearest.

Shapes: V rows, one a token; D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from tqdm import tqdm

from edgellm.errors import UnsupportedModelError
from edgellm.formats.architecture import EMBEDDING, HEAD
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import F32, QuantizedMatrix, Scheme
from edgellm.model.config import ModelConfig
from edgellm.quantize.gptq import F64, Factor, columns_of_a_group, gptq, output_error
from edgellm.quantize.partial import Finished, Partial
from edgellm.quantize.rtn import by_rows, round_to_nearest
from edgellm.quantize.stream import HALVES, Stream
from edgellm.runtime.weights import dense_matrix, layer_weights

FINAL_NORM = "model.norm.weight"
TIED_RIDGE = 0.1
"""Of the mean of the Hessian's diagonal, added to it where the head is the embedding too."""
EMBEDDING_STEP, HEAD_STEP = "embedding", "lm_head"
"""In `Partial`."""


def stored_embedding(
    checkpoint: Checkpoint, schemes: Mapping[str, Scheme], partial: Partial, stream_of: Callable[[F32], Stream], progress: bool
) -> F32:
    """The embedding, float32 [V, D], as it will be stored; if it is rounded, also put into `partial`, as "embedding".

    stream_of: makes the stream of an embedding. UnsupportedModelError: a weight that is not finite or too large.
    """
    weights, scheme = dense_matrix(checkpoint.tensors[EMBEDDING]).weights, schemes.get(EMBEDDING)
    if scheme is None:
        return weights
    finished = partial.load(EMBEDDING_STEP)
    if finished is None:
        if HEAD in checkpoint.tensors or not is_fitted(scheme):
            done = Finished(round_to_nearest(EMBEDDING, weights, scheme), math.nan)
        else:
            hessian = _original_hessian(checkpoint, stream_of(weights), progress)
            done = _fitted(EMBEDDING, weights, hessian, scheme, progress, TIED_RIDGE)
        finished = {EMBEDDING: done}
        partial.store(EMBEDDING_STEP, finished)
    return dense_matrix(finished[EMBEDDING].tensor).weights


def is_fitted(scheme: Scheme | None) -> bool:
    """Whether a head of that scheme is fitted to its inputs: one that is rounded at all, to less than 8 bits."""
    return scheme is not None and scheme.family != "int8"


def quantize_head(checkpoint: Checkpoint, scheme: Scheme | None, partial: Partial, stream: Stream, progress: bool) -> None:
    """Put a head of its own into `partial`, as "lm_head", unless it is there, or is not to be fitted. stream: past the last layer.

    UnsupportedModelError: a weight that is not finite or too large.
    """
    if scheme is None or not is_fitted(scheme) or partial.load(HEAD_STEP) is not None:
        return
    done = _fitted(HEAD, dense_matrix(checkpoint.tensors[HEAD]).weights, _hessian(checkpoint, stream), scheme, progress)
    partial.store(HEAD_STEP, {HEAD: done})


def _original_hessian(checkpoint: Checkpoint, stream: Stream, progress: bool) -> F64:
    """That of the head's inputs once the stream has gone through the checkpoint's layers as they are."""
    config, tensors = ModelConfig.from_hf(checkpoint.config), checkpoint.tensors

    def vector(name: str) -> F32:
        return np.asarray(tensors[name], np.float32)

    with np.errstate(invalid="ignore", over="ignore"):  # told of by what comes of it
        for index in tqdm(range(config.num_hidden_layers), desc="inputs of the head", unit="layer", disable=not progress):
            layer = layer_weights(config, index, lambda name: dense_matrix(tensors[name]), vector)
            for half in HALVES:
                stream.advance(index, half, layer)
            if not np.isfinite(stream.hidden).all():
                raise UnsupportedModelError(
                    f"the states after layer {index} are not finite: a weight of it, or of the embedding, is not finite or too large"
                )
        return _hessian(checkpoint, stream)


def _hessian(checkpoint: Checkpoint, stream: Stream) -> F64:
    return stream.final_hessian(np.asarray(checkpoint.tensors[FINAL_NORM], np.float32))


def _fitted(name: str, weights: F32, hessian: F64, scheme: Scheme, progress: bool, ridge: float = 0.0) -> Finished:
    """Weights [V, D] by GPTQ, some rows at a time: each row's rounding is its own, and the work takes several times their memory."""
    cols = weights.shape[1]
    factor = Factor.of(hessian + ridge * np.diag(hessian).mean() * np.eye(cols), columns_of_a_group(scheme, cols))
    error = total = 0.0
    with tqdm(total=len(weights), desc="head", unit="row", unit_scale=True, disable=not progress) as bar:

        def rounded(rows: F32) -> QuantizedMatrix:
            nonlocal error, total
            matrix = gptq(name, rows, factor, scheme).matrix
            more = output_error(rows, matrix, hessian)
            error, total = error + more[0], total + more[1]
            bar.update(len(rows))
            return matrix

        matrix = by_rows(weights, scheme, rounded)
    return Finished(matrix, float(f"{error / total if total else 0.0:.3e}"))
