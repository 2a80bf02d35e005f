"""The Llama forward pass: one function per decoder layer, over `ops`. It reads no file and no clock, and allocates nothing.

The same code runs recorded (each op joins a plan), eagerly, or in NumPy: `ops` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgellm.model.config import ModelConfig
from edgellm.ops.interface import Activation, CacheLayer, MatrixOps, Partials, Step

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Matrix = TypeVar("Matrix")  # whatever the ops take: packed, or dense


@dataclass(frozen=True)
class LayerWeights(Generic[Matrix]):
    """One decoder layer; norms float32 [D]."""

    input_layernorm: F32
    q_proj: Matrix  # [H E, D]
    k_proj: Matrix  # [G E, D]
    v_proj: Matrix  # [G E, D]
    o_proj: Matrix  # [D, H E]
    post_attention_layernorm: F32
    gate_proj: Matrix  # [F, D]
    up_proj: Matrix  # [F, D]
    down_proj: Matrix  # [D, F]


@dataclass(frozen=True)
class DecoderWeights(Generic[Matrix]):
    """The whole model; with tied embeddings lm_head is embed_tokens."""

    embed_tokens: Matrix  # [V, D]
    layers: tuple[LayerWeights[Matrix], ...]
    norm: F32  # [D]
    lm_head: Matrix  # [V, D]


@dataclass(frozen=True)
class DecoderState:
    """The buffers of a forward pass over up to L tokens."""

    tokens_L: I32
    hidden_LD: F32  # the residual stream
    normed_LD: Activation
    q_LHE: F32
    k_LGE: F32
    v_LGE: F32
    mixed_LHE: F32
    mixed_LD: Activation  # mixed_LHE in int8, its heads side by side
    gate_LF: F32
    up_LF: F32
    gated_LF: Activation
    final_LD: Activation  # normed_LD's vectors in the end, with what the head needs of tables and no layer
    logits_LV: F32
    partials: Partials
    cos_TE: F32  # rope tables [context, E/2]
    sin_TE: F32
    cache: tuple[CacheLayer, ...]


def activation_readers(w: DecoderWeights[Matrix]) -> dict[str, list[Matrix]]:
    """The matrices that each activation of `DecoderState` is multiplied with."""
    return {
        "normed_LD": [m for layer in w.layers for m in (layer.q_proj, layer.k_proj, layer.v_proj, layer.gate_proj, layer.up_proj)],
        "mixed_LD": [layer.o_proj for layer in w.layers],
        "gated_LF": [layer.down_proj for layer in w.layers],
        "final_LD": [w.lm_head],
    }


def _flat(x_LHE: F32) -> F32:
    """[L, H, E] as [L, H E]."""
    return x_LHE.reshape(x_LHE.shape[0], -1)


def decoder_layer(
    ops: MatrixOps[Matrix], config: ModelConfig, w: LayerWeights[Matrix], s: DecoderState, cache: CacheLayer, step: Step
) -> None:
    """Attention and feed-forward, each added to the residual stream."""
    ops.rmsnorm_quantize(s.normed_LD, s.hidden_LD, w.input_layernorm, config.rms_norm_eps, step)
    ops.matmul(_flat(s.q_LHE), s.normed_LD, w.q_proj, step)
    ops.matmul(_flat(s.k_LGE), s.normed_LD, w.k_proj, step)
    ops.matmul(_flat(s.v_LGE), s.normed_LD, w.v_proj, step)
    ops.rope(s.q_LHE, s.cos_TE, s.sin_TE, step)
    ops.cache_append(cache, s.k_LGE, s.v_LGE, s.cos_TE, s.sin_TE, step)
    ops.attention(s.mixed_LHE, s.q_LHE, cache, s.partials, config.attention_scale, step)
    ops.quantize(s.mixed_LD, _flat(s.mixed_LHE), step)
    ops.matmul(s.hidden_LD, s.mixed_LD, w.o_proj, step, accumulate=True)

    ops.rmsnorm_quantize(s.normed_LD, s.hidden_LD, w.post_attention_layernorm, config.rms_norm_eps, step)
    ops.matmul(s.gate_LF, s.normed_LD, w.gate_proj, step)
    ops.matmul(s.up_LF, s.normed_LD, w.up_proj, step)
    ops.gate_quantize(s.gated_LF, s.gate_LF, s.up_LF, "silu", step)
    ops.matmul(s.hidden_LD, s.gated_LF, w.down_proj, step, accumulate=True)


LAYER_OPS = (
    *("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.rotary_emb", "self_attn.cache"),
    *("self_attn.attention", "self_attn.quantize", "self_attn.o_proj"),
    *("post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.act_fn", "mlp.down_proj"),
)
"""The ops of `decoder_layer` in order, called as Hugging Face calls the modules where it has them."""


def op_names(layers: int) -> list[str]:
    """The ops of `forward` in order."""
    of_layers = [f"model.layers.{i}.{name}" for i in range(layers) for name in LAYER_OPS]
    return ["model.embed_tokens", *of_layers, "model.norm", "lm_head"]


def forward(ops: MatrixOps[Matrix], config: ModelConfig, weights: DecoderWeights[Matrix], s: DecoderState, step: Step) -> None:
    """Tokens to the logits of the step's last n_outputs tokens, in logits_LV's first rows."""
    ops.embed(s.hidden_LD, s.tokens_L, weights.embed_tokens, step)
    for layer, cache in zip(weights.layers, s.cache, strict=True):
        decoder_layer(ops, config, layer, s, cache, step)
    ops.rmsnorm_quantize(s.final_LD, s.hidden_LD, weights.norm, config.rms_norm_eps, step, outputs_only=True)
    ops.matmul(s.logits_LV, s.final_LD, weights.lm_head, step, outputs_only=True)
