"""What a model computes, as features: read from `config.json`'s keys, in Hugging Face's names. A key that changes the computation and is
not implemented is refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.model.rope import MAX_POSITIONS, Rope
from edgellm.ops.interface import MAX_HEAD_DIM

# Keys that say nothing about what a forward pass at inference computes.
_WITHOUT_EFFECT = frozenset(
    {
        *("_name_or_path", "name_or_path", "architectures", "transformers_version", "transformers.js_config", "is_llama_config"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "use_cache"),
        *("attention_dropout", "initializer_range", "pretraining_tp"),
    }
)
# Keys that are implemented for one value only.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "rope_interleaved": (False,),
    "quantization_config": (None,),
}
_INTEGERS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
             "vocab_size", "max_position_embeddings")  # fmt: skip
_LARGEST = 1 << 24  # of any integer key: no real model comes near, and products of two stay exact


AttentionKind = Literal["full_attention", "sliding_attention"]
HiddenAct = Literal["silu", "gelu_pytorch_tanh", "relu2"]
_EVERYWHERE: tuple[AttentionKind] = ("full_attention",)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions D = hidden_size, F = intermediate_size, H = num_attention_heads, G = num_key_value_heads, E = head_dim,
    V = vocab_size; the rest is what sets families apart, so that the forward pass asks for features and never for a family's name.

    layer_types:     of each layer, whether it attends to all positions or to the last `sliding_window`
    rope:            of layers with full attention, and of the others too where `local_rope` is None
    hidden_act:      what the gate goes through before it is multiplied with up
    attention_scale: what scores are multiplied with
    embedding_scale: what embeddings are multiplied with
    attention_bias:  q, k and v have biases
    qk_norm:         each head of q and k is normalised before it is rotated
    post_norms:      what attention and feed-forward give is normalised before it is added
    sub_norms:       the inputs of o_proj and down_proj are normalised
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: Rope
    local_rope: Rope | None
    layer_types: tuple[AttentionKind, ...]
    sliding_window: int | None
    hidden_act: HiddenAct
    attention_scale: float
    embedding_scale: float
    attention_bias: bool
    qk_norm: bool
    post_norms: bool
    sub_norms: bool

    @classmethod
    def from_hf(cls, keys: Mapping[str, Any]) -> ModelConfig:
        """From `config.json`'s keys. ModelFileError names a key that is missing or malformed, UnsupportedModelError one that is
        not implemented."""
        keys = _with_rope_parameters(keys)
        for key, allowed in _FIXED.items():
            if key in keys and keys[key] not in allowed:
                raise UnsupportedModelError(f"config key {key} = {keys[key]!r} is not implemented; implemented: {allowed[0]!r}")
        known = _WITHOUT_EFFECT | _FIXED.keys() | set(_INTEGERS) | {"rms_norm_eps", "rope_theta", "tie_word_embeddings"}
        if unknown := sorted(set(keys) - known):
            raise UnsupportedModelError(f"config key {unknown[0]} = {keys[unknown[0]]!r} is unknown; it may change what the model computes")
        filled = dict(keys)
        heads = keys.get("num_attention_heads")
        if filled.get("num_key_value_heads") is None:
            filled["num_key_value_heads"] = heads
        if filled.get("head_dim") is None and isinstance(heads, int) and heads > 0 and isinstance(keys.get("hidden_size"), int):
            filled["head_dim"] = keys["hidden_size"] // heads
        filled.setdefault("rope_theta", 10000.0)
        filled.setdefault("tie_word_embeddings", False)
        dimensions = {key: _integer(filled, key) for key in _INTEGERS}
        config = cls(
            **dimensions,
            rms_norm_eps=_positive(filled, "rms_norm_eps"),
            tie_word_embeddings=_boolean(filled, "tie_word_embeddings"),
            rope=Rope(_positive(filled, "rope_theta", smallest=1)),
            local_rope=None,
            layer_types=_EVERYWHERE * dimensions["num_hidden_layers"],
            sliding_window=None,
            hidden_act="silu",
            attention_scale=1 / sqrt(dimensions["head_dim"]),
            embedding_scale=1.0,
            attention_bias=False,
            qk_norm=False,
            post_norms=False,
            sub_norms=False,
        )
        config._check_shapes()
        return config

    def _check_shapes(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise UnsupportedModelError(
                f"num_attention_heads = {self.num_attention_heads} is no multiple of num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.head_dim % 16 or self.head_dim > MAX_HEAD_DIM:
            raise UnsupportedModelError(f"head_dim = {self.head_dim} is not implemented; implemented: multiples of 16 up to {MAX_HEAD_DIM}")
        if self.max_position_embeddings > MAX_POSITIONS:
            raise UnsupportedModelError(
                f"max_position_embeddings = {self.max_position_embeddings} is not implemented; implemented: up to {MAX_POSITIONS}"
            )
        for key in ("hidden_size", "intermediate_size"):
            if getattr(self, key) % 32:
                raise UnsupportedModelError(f"{key} = {getattr(self, key)} is not implemented; implemented: multiples of 32")
        if self.num_attention_heads * self.head_dim % 32:
            raise UnsupportedModelError(f"num_attention_heads * head_dim = {self.num_attention_heads * self.head_dim} is no multiple of 32")


def _with_rope_parameters(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Newer configs nest the rope's keys: {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}."""
    flat = {key: value for key, value in keys.items() if key != "rope_parameters"}
    nested = keys.get("rope_parameters")
    if nested is None:
        return flat
    if not isinstance(nested, Mapping) or nested.get("rope_type", "default") != "default" or set(nested) - {"rope_type", "rope_theta"}:
        raise UnsupportedModelError(f"config key rope_parameters = {nested!r} is not implemented; implemented: rope_type 'default'")
    if "rope_theta" in nested:
        flat["rope_theta"] = nested["rope_theta"]
    return flat


def _integer(keys: Mapping[str, Any], key: str) -> int:
    value = keys.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise ModelFileError(f"config key {key} = {value!r}; an integer between 1 and {_LARGEST} is needed")
    return value


def _positive(keys: Mapping[str, Any], key: str, smallest: float = 1e-30) -> float:
    value = keys.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not smallest <= value < 1e12:
        raise ModelFileError(f"config key {key} = {value!r}; a number between {smallest:g} and 1e12 is needed")
    return float(value)


def _boolean(keys: Mapping[str, Any], key: str) -> bool:
    value = keys[key]
    if not isinstance(value, bool):
        raise ModelFileError(f"config key {key} = {value!r}; true or false is needed")
    return value
