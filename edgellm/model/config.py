"""What a model computes, as features: read from `config.json`'s keys, in Hugging Face's names. A key that changes the computation and is
not implemented is refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal, cast, get_args

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.architecture import Family, family_of
from edgellm.model.families import DIMENSIONS, MEANINGS, READ, WITHOUT_EFFECT, Meaning
from edgellm.model.keys import boolean, integer, number
from edgellm.model.rope import MAX_POSITIONS, Rope
from edgellm.model.rope_keys import rope_of
from edgellm.ops.interface import MAX_HEAD_DIM

AttentionKind = Literal["full_attention", "sliding_attention"]
HiddenAct = Literal["silu", "gelu_pytorch_tanh", "relu2"]
_KINDS = get_args(AttentionKind)


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
    def from_hf(cls, config: Mapping[str, Any]) -> ModelConfig:
        """From `config.json`'s keys. ModelFileError names a key that is missing or malformed, UnsupportedModelError one that is not
        implemented."""
        family, meaning = family_of(config), MEANINGS[str(config["model_type"])]
        _refuse_what_is_not_implemented(config, meaning)
        keys = _filled(config, family, meaning)
        dimensions = {key: integer(keys, key) for key in DIMENSIONS}
        rope, local_rope = rope_of(keys, dimensions["head_dim"])
        layer_types = _layer_types(keys, meaning, dimensions["num_hidden_layers"])
        made = cls(
            **dimensions,
            rms_norm_eps=number(keys, "rms_norm_eps"),
            tie_word_embeddings=boolean(keys, "tie_word_embeddings"),
            rope=rope,
            local_rope=local_rope,
            layer_types=layer_types,
            sliding_window=integer(keys, "sliding_window") if "sliding_attention" in layer_types else None,
            hidden_act=meaning.fixed["hidden_act"][0],
            attention_scale=1 / sqrt(number({"query_pre_attn_scalar": dimensions["head_dim"], **keys}, "query_pre_attn_scalar")),
            embedding_scale=sqrt(dimensions["hidden_size"]) if meaning.scaled_embedding else 1.0,
            attention_bias=family.attention_bias,
            qk_norm=family.qk_norm,
            post_norms=family.post_norms,
            sub_norms=family.sub_norms,
        )
        made._check_shapes()
        return made

    def require_llama(self, who: str) -> None:
        """UnsupportedModelError, for `who` runs what Llama 2 computes and no more: names what this model has beyond that."""
        beyond = {
            "a scaled rope": self.rope.scaling is not None,
            "a sliding window": self.sliding_window is not None,
            f"the activation {self.hidden_act}": self.hidden_act != "silu",
            "biases of queries, keys and values": self.attention_bias,
            "norms of queries and keys": self.qk_norm,
            "norms of outputs": self.post_norms,
            "norms within attention and feed-forward": self.sub_norms,
        }
        if found := next((feature for feature, there in beyond.items() if there), None):
            raise UnsupportedModelError(f"{who} runs models like Llama 2 only; this one has {found}")

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


def _refuse_what_is_not_implemented(config: Mapping[str, Any], meaning: Meaning) -> None:
    for key, allowed in meaning.fixed.items():
        if key in config and config[key] not in allowed:
            raise UnsupportedModelError(f"config key {key} = {config[key]!r:.200} is not implemented; implemented: {allowed[0]!r}")
    known = READ | WITHOUT_EFFECT | meaning.read | meaning.without_effect | meaning.fixed.keys()
    if unknown := sorted(map(str, config.keys() - known)):
        raise UnsupportedModelError(
            f"config key {unknown[0]} = {config[unknown[0]]!r:.80} is unknown; it may change what the model computes"
        )


def _filled(config: Mapping[str, Any], family: Family, meaning: Meaning) -> dict[str, Any]:
    """The keys with the family's defaults for those that are missing, or null where a number is needed."""
    given = {key: value for key, value in config.items() if value is not None or key == "sliding_window"}
    keys = {"tie_word_embeddings": family.tied, **meaning.defaults, **given}
    heads, hidden = keys.get("num_attention_heads"), keys.get("hidden_size")
    keys.setdefault("num_key_value_heads", heads)
    if isinstance(heads, int) and heads > 0 and isinstance(hidden, int):
        keys.setdefault("head_dim", family.head_dim or hidden // heads)
    return keys


def _layer_types(keys: Mapping[str, Any], meaning: Meaning, layers: int) -> tuple[AttentionKind, ...]:
    if "layer_types" not in meaning.read or "layer_types" not in keys:
        return cast("tuple[AttentionKind, ...]", tuple(meaning.layer_types(keys, layers)))
    given = keys["layer_types"]
    if not isinstance(given, list) or len(given) != layers or not all(kind in _KINDS for kind in given):
        raise ModelFileError(f"config key layer_types = {given!r:.80}; a list of {layers}, each {' or '.join(_KINDS)}, is needed")
    return tuple(given)
