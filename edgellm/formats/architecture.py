"""Which tensors a model of a given config consists of, under their Hugging Face names: Llama's, and what its family adds to them.

A checkpoint holds norm weights as they are multiplied, and the projections of attention and feed-forward one by one: a reader adds what a
format leaves out (Gemma's weights are stored less 1 by Hugging Face) and splits what it fuses (Phi-3's qkv_proj and gate_up_proj).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.tensors import TensorSpec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Family:
    """What sets the tensors of a `model_type` apart.

    name:           for people
    attention_bias: q, k and v have biases
    qk_norm:        each head of q and k is normalised
    post_norms:     what attention and feed-forward give is normalised before it is added
    sub_norms:      the inputs of o_proj and down_proj are normalised
    head_dim:       where the config has none; None means hidden_size / num_attention_heads
    tied:           the head is the embedding where the config does not say
    """

    name: str
    attention_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    sub_norms: bool = False
    head_dim: int | None = None
    tied: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama": Family("Llama"),
    "qwen2": Family("Qwen2", attention_bias=True),
    "qwen3": Family("Qwen3", qk_norm=True, head_dim=128),
    "phi3": Family("Phi-3"),
    "gemma3_text": Family("Gemma 3", qk_norm=True, post_norms=True, head_dim=256, tied=True),
    "bitnet": Family("BitNet", sub_norms=True),
}
"""By `model_type`; the defaults are those of transformers' configuration classes."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that the config names; UnsupportedModelError says which there are."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedModelError(f"config key model_type = {model_type!r} is not implemented; implemented: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def head_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(H, G, E): query heads, key/value heads, head dimension, with Hugging Face's defaults. ModelFileError names the key that is wrong."""
    heads = _dimension(config, "num_attention_heads")
    kv_heads = _dimension(config, "num_key_value_heads", heads)
    usual = family_of(config).head_dim or _dimension(config, "hidden_size") // heads
    return heads, kv_heads, _dimension(config, "head_dim", usual)


def tensor_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor's name and shape, in model order. ModelFileError if the config lacks a dimension."""
    family = family_of(config)
    hidden, vocab = _dimension(config, "hidden_size"), _dimension(config, "vocab_size")
    yield EMBEDDING, (vocab, hidden)
    for layer in range(_dimension(config, "num_hidden_layers")):
        for name, shape in _layer_shapes(config, family):
            yield f"model.layers.{layer}.{name}", shape
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings", family.tied):
        yield HEAD, (vocab, hidden)


def in_model_order(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The specs in model order, once it is certain that they are the model's tensors: all of them, no other, each of its shape.

    UnsupportedModelError: another architecture, or a tensor that a model of this family does not have.
    ModelFileError: a tensor missing or misshapen.
    """
    family = family_of(config)
    ordered: dict[str, TensorSpec] = {}
    for name, shape in tensor_shapes(config):
        if name not in specs:
            raise ModelFileError(f"tensor {name} is missing; a {family.name} model of this config has it")
        if specs[name].shape != shape:
            raise ModelFileError(f"tensor {name} has shape {specs[name].shape}; the config asks for {shape}")
        ordered[name] = specs[name]
    if unknown := next((name for name in specs if name not in ordered), None):
        raise UnsupportedModelError(
            f"tensor {unknown} is not part of a {family.name} model as implemented, so the model cannot be run faithfully"
        )
    return ordered


def _layer_shapes(config: Mapping[str, Any], family: Family) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of any layer."""
    hidden, ffn = _dimension(config, "hidden_size"), _dimension(config, "intermediate_size")
    heads, kv_heads, head_dim = head_shape(config)
    yield "input_layernorm.weight", (hidden,)
    for part, width in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        yield f"self_attn.{part}_proj.weight", (width * head_dim, hidden)
        if family.attention_bias:
            yield f"self_attn.{part}_proj.bias", (width * head_dim,)
    if family.qk_norm:
        yield "self_attn.q_norm.weight", (head_dim,)
        yield "self_attn.k_norm.weight", (head_dim,)
    if family.sub_norms:
        yield "self_attn.attn_sub_norm.weight", (heads * head_dim,)
    yield "self_attn.o_proj.weight", (hidden, heads * head_dim)
    yield "post_attention_layernorm.weight", (hidden,)  # before feed-forward, or with post norms before attention's output is added
    if family.post_norms:
        yield "pre_feedforward_layernorm.weight", (hidden,)
    yield "mlp.gate_proj.weight", (ffn, hidden)
    yield "mlp.up_proj.weight", (ffn, hidden)
    if family.sub_norms:
        yield "mlp.ffn_sub_norm.weight", (ffn,)
    yield "mlp.down_proj.weight", (hidden, ffn)
    if family.post_norms:
        yield "post_feedforward_layernorm.weight", (hidden,)


def _dimension(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """`config[key]` as a positive integer; ModelFileError names the key."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise ModelFileError(f"config key {key!r} is {value!r}; it must be a positive integer")
    return value
