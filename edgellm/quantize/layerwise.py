"""A model's layers quantized one after the other, each fitted by GPTQ to the inputs that the layers before it, quantized, give it.

A trainer, if there is one, improves on each layer before the next is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tqdm import tqdm

from edgellm.formats.architecture import HEAD
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.matrix import Scheme
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import F32, LayerWeights
from edgellm.ops.dense import DenseMatrix, Rounding
from edgellm.quantize.calibrate import CalibrationText, sequences
from edgellm.quantize.gptq import Factor, Rounded, columns_of_a_group, gptq, output_error
from edgellm.quantize.head import is_fitted, quantize_head, stored_embedding
from edgellm.quantize.partial import Finished, Partial
from edgellm.quantize.stream import HALVES, Inputs, Stream
from edgellm.runtime.weights import dense_matrix, layer_weights
from edgellm.text.tokenizer import Tokenizer

Layer = LayerWeights[DenseMatrix]


class LayerTrainer(Protocol):
    """Improves on layers that GPTQ has rounded, in their order."""

    def train(self, index: int, rounded: Mapping[str, Rounded]) -> tuple[dict[str, Finished], dict[str, float]]:
        """The layer's tensors that are other than the original's, by name, and its error "before" and "after"."""

    def advance(self, index: int, finished: Mapping[str, Finished]) -> None:
        """Go on to the next layer: this one has these tensors."""


@dataclass(frozen=True)
class Plan:
    """What is to be made. schemes: of the tensors that are rounded; others stay. texts: what the layers are fitted to.

    trainer: made of the embedding, float32 [V, D], as it will be stored; None: layers stay as GPTQ has them.
    """

    schemes: Mapping[str, Scheme]
    texts: Sequence[CalibrationText]
    activations: Rounding
    trainer: Callable[[F32], LayerTrainer] | None = None


def quantize_layers(checkpoint: Checkpoint, plan: Plan, partial: Partial, progress: bool) -> None:
    """Put every layer's tensors into `partial`, as "layer-0" and so on; before them the embedding, and after them a head (see `head`).

    Layers that are there already are only run, so that the result has the same bits as one that was not interrupted. Those after the last
    one that changes are not even run, where no head waits for what they give.
    """
    config = ModelConfig.from_hf(checkpoint.config)
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config)
    tokens = sequences(plan.texts, lambda text: tokenizer.encode(text, special=False), tokenizer.bos_id)

    def stream_of(embedding: F32) -> Stream:
        return Stream(config, tokens, embedding, tokenizer.bos_id, plan.activations)

    embedding = stored_embedding(checkpoint, plan.schemes, partial, stream_of, progress)
    stream = stream_of(embedding)
    trainer = plan.trainer(embedding) if plan.trainer else None
    for index in tqdm(range(_layers_to_run(plan, config)), desc="gptq", unit="layer", disable=not progress):
        finished = partial.load(f"layer-{index}")
        if finished is None:
            done = _rounded(checkpoint, config, index, stream.copy(), plan)
            if trainer is None:
                finished = {name: Finished(rounded.matrix, error) for name, (rounded, error) in done.items()}
                partial.store(f"layer-{index}", finished)
            else:
                finished, facts = trainer.train(index, {name: rounded for name, (rounded, _) in done.items()})
                partial.store(f"layer-{index}", finished, facts)
        layer = _layer(checkpoint, config, index, {name: done.tensor for name, done in finished.items()})
        for half in HALVES:
            stream.advance(index, half, layer)
        if trainer is not None:
            trainer.advance(index, finished)
    quantize_head(checkpoint, plan.schemes.get(HEAD), partial, stream, progress)


def _layers_to_run(plan: Plan, config: ModelConfig) -> int:
    """How many, from the first on. All where there is a trainer, which changes norms, too."""
    if plan.trainer is not None or is_fitted(plan.schemes.get(HEAD)):
        return config.num_hidden_layers
    rounded = [int(name.split(".")[2]) for name in plan.schemes if name.startswith("model.layers.")]
    return max(rounded, default=-1) + 1


def _layer(checkpoint: Checkpoint, config: ModelConfig, index: int, done: Mapping[str, Tensor]) -> Layer:
    """A layer's weights as float32, with those that are done in place of the checkpoint's."""

    def tensor(name: str) -> Tensor:
        return done[name] if name in done else checkpoint.tensors[name]

    return layer_weights(config, index, lambda name: dense_matrix(tensor(name)), lambda name: np.asarray(tensor(name), np.float32))


def _names(checkpoint: Checkpoint, index: int) -> dict[str, str]:
    """The tensor that each matrix of `LayerWeights` is: q_proj -> model.layers.0.self_attn.q_proj.weight."""
    names = [name for name in checkpoint.tensors if name.startswith(f"model.layers.{index}.") and name.endswith("_proj.weight")]
    return {name.split(".")[-2]: name for name in names}


def _rounded(checkpoint: Checkpoint, config: ModelConfig, index: int, stream: Stream, plan: Plan) -> dict[str, tuple[Rounded, float]]:
    """The layer's matrices that are rounded, by tensor, each with the relative squared error of what it puts out. Moves the stream."""
    names = _names(checkpoint, index)
    done: dict[str, tuple[Rounded, float]] = {}
    if not plan.schemes.keys() & set(names.values()):
        return done

    def layer() -> Layer:
        return _layer(checkpoint, config, index, {name: rounded.matrix for name, (rounded, _) in done.items()})

    for half in HALVES:
        exact = layer()
        for given in stream.inputs(index, half, exact):
            weights = {names[reader]: getattr(exact, reader).weights for reader in given.readers if names[reader] in plan.schemes}
            done |= dict(_round(weights, given, plan))
        stream.advance(index, half, layer())
    return done


def _round(weights: Mapping[str, F32], given: Inputs, plan: Plan) -> Iterator[tuple[str, tuple[Rounded, float]]]:
    """Matrices that share an input."""
    factors: dict[int, Factor] = {}
    for name, exact in weights.items():
        group = columns_of_a_group(plan.schemes[name], len(given.hessian))
        if group not in factors:
            factors[group] = Factor.of(given.hessian, group)
        rounded = gptq(name, exact, factors[group], plan.schemes[name])
        error, total = output_error(exact, rounded.matrix, given.hessian)
        yield name, (rounded, float(f"{error / total if total else 0.0:.3e}"))
