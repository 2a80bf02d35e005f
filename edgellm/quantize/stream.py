"""The hidden states of calibration sequences, taken through a model half a layer at a time, and what its matrices are given as inputs.

Only one layer's weights and the states between are in memory. The states are those of the model as it is quantized so far, with its
activations rounded as the kernels round them, so that what comes next is fitted to the inputs that it will meet.

Position 0 is where attention rests when it has nothing to look at (an attention sink), so an error of its value reaches every token after
it, though it is one input of a thousand. What queries, keys and values are made of therefore counts position 0 once more: SINK_WEIGHT times
the mean over sequences of one token.

Shapes: S sequences of L tokens, R sequences of one token, D hidden, K columns of a matrix.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgellm.model.config import ModelConfig
from edgellm.model.decoder import LayerWeights, attention, feed_forward
from edgellm.ops.dense import Dense, DenseMatrix, Rounding
from edgellm.ops.interface import F32, I32, KEY_TILE, Activation, CacheLayer, Partials, Step
from edgellm.runtime.workspace import new_cache, new_state

F64 = npt.NDArray[np.float64]
Half = Literal["attention", "feed_forward"]
HALVES: tuple[Half, Half] = ("attention", "feed_forward")

SINK_WEIGHT = 1.0
SINKS = 256
BOS_SINKS = 64
"""How many of the sequences of one token are BOS; the others are tokens at random."""


@dataclass(frozen=True)
class Inputs:
    """What matrices that share an input are given. readers: their names in `LayerWeights`. hessian: float64 [K, K], E[x x^T]."""

    readers: tuple[str, ...]
    hessian: F64


class Stream:
    """The states before half a layer: float32 [S, L, D], and [R, D] of the sequences of one token."""

    def __init__(self, config: ModelConfig, tokens: I32, embedding: F32, bos_id: int | None, activations: Rounding) -> None:
        """tokens: int32 [S, L]. embedding: float32 [V, D], as it will be stored."""
        sinks = np.random.default_rng(0).integers(0, len(embedding), SINKS)
        if bos_id is not None:
            sinks[:BOS_SINKS] = bos_id
        scale = np.float32(config.embedding_scale)
        self.hidden: F32 = embedding[tokens] * scale
        self.sinks: F32 = embedding[sinks] * scale
        self._config, self._activations = config, activations
        length = -(-max(tokens.shape[1], SINKS) // KEY_TILE) * KEY_TILE
        one = replace(config, num_hidden_layers=1, layer_types=config.layer_types[:1], vocab_size=1)  # logits are not asked for
        (self._cache,), _ = new_cache(one, length, np.float32)
        self._state, _ = new_state(one, (self._cache,), length, length, exact=True)

    def copy(self) -> Stream:
        """Another that is where this one is, to go its own way. Both work in the same memory, so not at once."""
        other = copy.copy(self)
        other.hidden = self.hidden.copy()
        return other

    def inputs(self, index: int, half: Half, layer: LayerWeights[DenseMatrix]) -> list[Inputs]:
        """Of half of layer `index` with these weights, in the order of the forward pass."""
        names = {id(getattr(layer, field.name)): field.name for field in fields(layer)}
        seen, alone = _Watching(self._activations, names), _Alone(self._activations, names)
        for hidden in self.hidden:
            self._run(seen, index, half, layer, hidden)
        found = [Inputs(tuple(readers), seen.products[i] / seen.counts[i]) for i, readers in enumerate(seen.readers)]
        if half == "attention":
            self._run(alone, index, half, layer, self.sinks)
            found[0] = replace(found[0], hessian=found[0].hessian + SINK_WEIGHT * alone.products[0] / alone.counts[0])
        return found

    def advance(self, index: int, half: Half, layer: LayerWeights[DenseMatrix]) -> None:
        """Go past half of layer `index` with these weights."""
        ops = _Watching(self._activations, {})
        for hidden in self.hidden:
            hidden[:] = self._run(ops, index, half, layer, hidden)
        self.sinks = self._run(_Alone(self._activations, {}), index, half, layer, self.sinks)

    def final_hessian(self, norm: F32) -> F64:
        """Of what the head is given, float64 [D, D], E[x x^T]: the states as they are, normalised with the final norm's weight [D]."""
        seen, step = _Watching(self._activations, {}), Step()
        for hidden in self.hidden:
            step.set(0, len(hidden), 0)
            seen.begin()
            seen.rmsnorm_quantize(self._state.normed_LD, hidden, norm, self._config.rms_norm_eps, step)
            seen.watch("lm_head", self._state.normed_LD, len(hidden))
        return seen.products[0] / seen.counts[0]

    def _run(self, ops: _Watching, index: int, half: Half, layer: LayerWeights[DenseMatrix], hidden: F32) -> F32:
        """The states [L, D] after half the layer."""
        step, config, length = Step(), self._config, len(hidden)
        step.set(0, length, 0)
        self._state.hidden_LD[:length] = hidden
        ops.begin()
        if half == "attention":
            attention(ops, config, config.layer_types[index], layer, self._state, self._cache, step)
        else:
            feed_forward(ops, config, layer, self._state, step)
        return self._state.hidden_LD[:length].copy()


class _Watching(Dense):
    """Dense ops that add up x^T x of the inputs of the matrices that are named, each input once however many read it."""

    def __init__(self, activations: Rounding, names: Mapping[int, str]) -> None:
        super().__init__(activations)
        self._names = names
        self._input = -1  # the number in this pass of the activation that matrices read
        self._fresh = False  # whether none has read it yet
        self.products: list[F64] = []
        self.counts: list[int] = []
        self.readers: list[list[str]] = []

    def begin(self) -> None:
        """Before each pass."""
        self._input = -1

    def matmul(self, out: F32, x: Activation, w: DenseMatrix, step: Step, accumulate: bool = False, outputs_only: bool = False) -> None:
        """As in `Dense`."""
        if name := self._names.get(id(w)):
            self.watch(name, x, step.n_tokens)
        super().matmul(out, x, w, step, accumulate, outputs_only)

    def watch(self, name: str, x: Activation, length: int) -> None:
        """The matrix of that name reads the first `length` vectors of x."""
        if self._fresh:
            self._fresh = False
            self._input += 1
            if self._input == len(self.products):
                self.products.append(np.zeros((x.cols, x.cols)))
                self.counts.append(0)
                self.readers.append([])
            assert x.exact is not None
            vectors = x.exact[:length]
            self.products[self._input] += vectors.T @ vectors
            self.counts[self._input] += length
        if name not in self.readers[self._input]:
            self.readers[self._input].append(name)

    def _store(self, out: Activation, x: F32) -> None:
        self._fresh = True
        super()._store(out, x)


class _Alone(_Watching):
    """The same for tokens that are sequences of their own: each attends to itself alone."""

    def attention(
        self,
        out: F32,
        q: F32,
        cache: CacheLayer,
        scratch: Partials,  # noqa: ARG002
        scale: float,  # noqa: ARG002
        step: Step,
        window: int | None = None,  # noqa: ARG002
    ) -> None:
        """out = its own value, whatever its query."""
        values_LGE = cache.values[:, : step.n_tokens].transpose(1, 0, 2)
        out[: step.n_tokens] = np.repeat(values_LGE, q.shape[1] // values_LGE.shape[1], axis=1)
