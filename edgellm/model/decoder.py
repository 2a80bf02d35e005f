"""The forward pass of every family: one function per decoder layer, over `ops`. It reads no file and no clock, and allocates nothing.

What a family has that Llama has not is a feature of its config or a weight of its layers, and each is asked for where it matters. The same
code runs recorded (each op joins a plan), eagerly, or in NumPy: `ops` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgellm.model.config import AttentionKind, ModelConfig
from edgellm.ops.interface import Activation, CacheLayer, MatrixOps, Partials, Step

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Matrix = TypeVar("Matrix")  # whatever the ops take: packed, or dense


@dataclass(frozen=True, kw_only=True)
class LayerWeights(Generic[Matrix]):
    """One decoder layer. Norms are float32 [D] unless said otherwise; None: the model has no such step.

    Hugging Face calls pre_feedforward_layernorm post_attention_layernorm where attention's output is not normalised.
    """

    input_layernorm: F32
    q_proj: Matrix  # [H E, D]
    k_proj: Matrix  # [G E, D]
    v_proj: Matrix  # [G E, D]
    biases: tuple[F32, F32, F32] | None  # of q, k and v: [H E], [G E], [G E]
    q_norm: F32 | None  # [E]
    k_norm: F32 | None  # [E]
    attn_sub_norm: F32 | None  # [H E]
    o_proj: Matrix  # [D, H E]
    post_attention_layernorm: F32 | None
    pre_feedforward_layernorm: F32
    gate_proj: Matrix  # [F, D]
    up_proj: Matrix  # [F, D]
    ffn_sub_norm: F32 | None  # [F]
    down_proj: Matrix  # [D, F]
    post_feedforward_layernorm: F32 | None


@dataclass(frozen=True)
class DecoderWeights(Generic[Matrix]):
    """The whole model; with tied embeddings lm_head is embed_tokens."""

    embed_tokens: Matrix  # [V, D]
    layers: tuple[LayerWeights[Matrix], ...]
    norm: F32  # [D]
    lm_head: Matrix  # [V, D]


@dataclass(frozen=True)
class RopeTables:
    """cos and sin of every position, float32 [context, E/2]."""

    cos_TE: F32
    sin_TE: F32


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
    update_LD: F32  # what is normalised before it is added to hidden_LD; no rows where nothing is
    final_LD: Activation  # normed_LD's vectors in the end, with what the head needs of tables and no layer
    logits_LV: F32
    partials: Partials
    rope: Mapping[AttentionKind, RopeTables]
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
    ops: MatrixOps[Matrix],
    config: ModelConfig,
    kind: AttentionKind,
    w: LayerWeights[Matrix],
    s: DecoderState,
    cache: CacheLayer,
    step: Step,
) -> None:
    """Attention and feed-forward, each added to the residual stream."""
    attention(ops, config, kind, w, s, cache, step)
    feed_forward(ops, config, w, s, step)


def attention(
    ops: MatrixOps[Matrix],
    config: ModelConfig,
    kind: AttentionKind,
    w: LayerWeights[Matrix],
    s: DecoderState,
    cache: CacheLayer,
    step: Step,
) -> None:
    """hidden_LD += attention of hidden_LD."""
    q_LD, k_LD, v_LD = map(_flat, (s.q_LHE, s.k_LGE, s.v_LGE))
    ops.rmsnorm_quantize(s.normed_LD, s.hidden_LD, w.input_layernorm, config.rms_norm_eps, step)
    ops.matmul(q_LD, s.normed_LD, w.q_proj, step)
    ops.matmul(k_LD, s.normed_LD, w.k_proj, step)
    ops.matmul(v_LD, s.normed_LD, w.v_proj, step)
    if w.biases is not None:
        for x_LD, bias in zip((q_LD, k_LD, v_LD), w.biases, strict=True):
            ops.add_bias(x_LD, bias, step)
    if w.q_norm is not None:
        ops.rmsnorm(s.q_LHE, w.q_norm, config.rms_norm_eps, step)
    if w.k_norm is not None:
        ops.rmsnorm(s.k_LGE, w.k_norm, config.rms_norm_eps, step)
    rope = s.rope[kind]
    ops.rope(s.q_LHE, rope.cos_TE, rope.sin_TE, step)
    ops.cache_append(cache, s.k_LGE, s.v_LGE, rope.cos_TE, rope.sin_TE, step)
    window = config.sliding_window if kind == "sliding_attention" else None
    ops.attention(s.mixed_LHE, s.q_LHE, cache, s.partials, config.attention_scale, step, window)
    if w.attn_sub_norm is None:
        ops.quantize(s.mixed_LD, _flat(s.mixed_LHE), step)
    else:
        ops.rmsnorm_quantize(s.mixed_LD, _flat(s.mixed_LHE), w.attn_sub_norm, config.rms_norm_eps, step)
    _add(ops, config, s, s.mixed_LD, w.o_proj, w.post_attention_layernorm, step)


def feed_forward(ops: MatrixOps[Matrix], config: ModelConfig, w: LayerWeights[Matrix], s: DecoderState, step: Step) -> None:
    """hidden_LD += feed-forward of hidden_LD."""
    ops.rmsnorm_quantize(s.normed_LD, s.hidden_LD, w.pre_feedforward_layernorm, config.rms_norm_eps, step)
    ops.matmul(s.gate_LF, s.normed_LD, w.gate_proj, step)
    ops.matmul(s.up_LF, s.normed_LD, w.up_proj, step)
    if config.hidden_act == "relu2":
        ops.relu2_gate(s.gate_LF, s.up_LF, step)
    else:
        ops.gate_quantize(s.gated_LF, s.gate_LF, s.up_LF, config.hidden_act, step)
    if w.ffn_sub_norm is not None:
        ops.rmsnorm_quantize(s.gated_LF, s.up_LF, w.ffn_sub_norm, config.rms_norm_eps, step)
    _add(ops, config, s, s.gated_LF, w.down_proj, w.post_feedforward_layernorm, step)


def _add(ops: MatrixOps[Matrix], config: ModelConfig, s: DecoderState, x: Activation, w: Matrix, norm: F32 | None, step: Step) -> None:
    """hidden_LD += w x, normalised first where there is a norm."""
    if norm is None:
        ops.matmul(s.hidden_LD, x, w, step, accumulate=True)
    else:
        ops.matmul(s.update_LD, x, w, step)
        ops.rmsnorm_add(s.hidden_LD, s.update_LD, norm, config.rms_norm_eps, step)


def op_names(config: ModelConfig) -> list[str]:
    """The ops of `forward` in order, called as Hugging Face calls the modules where it has them."""
    layer = [*_attention_names(config), *_feed_forward_names(config)]
    of_layers = [f"model.layers.{i}.{name}" for i in range(config.num_hidden_layers) for name in layer]
    return ["model.embed_tokens", *of_layers, "model.norm", "lm_head"]


def _attention_names(config: ModelConfig) -> list[str]:
    projections = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    return [
        *("input_layernorm", *projections),
        *(f"{name}.bias" for name in projections if config.attention_bias),
        *(["self_attn.q_norm", "self_attn.k_norm"] if config.qk_norm else []),
        *("self_attn.rotary_emb", "self_attn.cache", "self_attn.attention"),
        *("self_attn.attn_sub_norm" if config.sub_norms else "self_attn.quantize", "self_attn.o_proj"),
        *(["post_attention_layernorm"] if config.post_norms else []),
    ]


def _feed_forward_names(config: ModelConfig) -> list[str]:
    return [
        *("pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.act_fn"),
        *(["mlp.ffn_sub_norm"] if config.sub_norms else []),
        "mlp.down_proj",
        *(["post_feedforward_layernorm"] if config.post_norms else []),
    ]


def forward(ops: MatrixOps[Matrix], config: ModelConfig, weights: DecoderWeights[Matrix], s: DecoderState, step: Step) -> None:
    """Tokens to the logits of the step's last n_outputs tokens, in logits_LV's first rows."""
    ops.embed(s.hidden_LD, s.tokens_L, weights.embed_tokens, step, config.embedding_scale)
    for kind, layer, cache in zip(config.layer_types, weights.layers, s.cache, strict=True):
        decoder_layer(ops, config, kind, layer, s, cache, step)
    ops.rmsnorm_quantize(s.final_LD, s.hidden_LD, weights.norm, config.rms_norm_eps, step, outputs_only=True)
    ops.matmul(s.logits_LV, s.final_LD, weights.lm_head, step, outputs_only=True)
