"""The tensors that a model of a given config consists of, under their Hugging Face names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.tensors import TensorSpec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _dimension(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """`config[key]` as a positive integer; ModelFileError names the key."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise ModelFileError(f"config key {key!r} is {value!r}; it must be a positive integer")
    return value


def _head_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(H, G, E): query heads, key/value heads, head dimension, with Hugging Face's defaults."""
    heads = _dimension(config, "num_attention_heads")
    kv_heads = _dimension(config, "num_key_value_heads", heads)
    return heads, kv_heads, _dimension(config, "head_dim", _dimension(config, "hidden_size") // heads)


def tensor_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor's name and shape, in model order. ModelFileError if the config lacks a dimension."""
    hidden, ffn, vocab = (_dimension(config, key) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads, head_dim = _head_shape(config)
    yield EMBEDDING, (vocab, hidden)
    for layer in range(_dimension(config, "num_hidden_layers")):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (heads * head_dim, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (kv_heads * head_dim, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (kv_heads * head_dim, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, heads * head_dim)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.gate_proj.weight", (ffn, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (ffn, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings", False):
        yield HEAD, (vocab, hidden)


def in_model_order(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The specs in model order, once it is certain that they are the model's tensors: all of them, no other, each of its shape.

    UnsupportedModelError: another architecture, or a tensor that a Llama model does not have.
    ModelFileError: a tensor missing or misshapen.
    """
    if config.get("model_type") != "llama":
        raise UnsupportedModelError(f"architecture {config.get('model_type')!r} is not implemented; implemented: 'llama'")
    ordered: dict[str, TensorSpec] = {}
    for name, shape in tensor_shapes(config):
        if name not in specs:
            raise ModelFileError(f"tensor {name} is missing; a Llama model of this config has it")
        if specs[name].shape != shape:
            raise ModelFileError(f"tensor {name} has shape {specs[name].shape}; the config asks for {shape}")
        ordered[name] = specs[name]
    if unknown := next((name for name in specs if name not in ordered), None):
        raise UnsupportedModelError(f"tensor {unknown} is not part of a Llama model as implemented, so the model cannot be run faithfully")
    return ordered
