"""GGUF's metadata -> Hugging Face's `config.json` keys, architecture by architecture. A key that nothing asked for is refused by name.

The keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "LLM". What a missing one means is what llama.cpp
takes it to mean when it loads the model (src/models/ARCHITECTURE.cpp).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.gguf_header import MAX_ENTRIES
from edgellm.formats.gguf_names import ARCHITECTURES, Architecture
from edgellm.formats.gguf_vocabulary import turn_ends
from edgellm.formats.matrix import F32

FIXED_KEYS = {"general.type": "model", "general.quantization_version": 2}
"""Keys that would change what the tensors mean if they had another value; they may be missing."""

SILENT_PREFIXES = ("general.", "tokenizer.", "quantize.imatrix.")
"""Metadata that no computation of the forward pass depends on; `tokenizer.` is judged by `gguf_tokenizer`."""

LARGEST = 2**31 - 1
MAX_LAYERS = MAX_ENTRIES  # a layer has several tensors, so a file cannot have more


class Metadata:
    """The keys of a file's architecture, by what follows "ARCHITECTURE."; it notes which were asked for."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self.keys = keys
        name = keys.get("general.architecture")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise UnsupportedModelError(f"key 'general.architecture' is {_short(name)}; implemented: {', '.join(map(repr, ARCHITECTURES))}")
        self.name = name
        self._asked: set[str] = set()

    def full(self, key: str) -> str:
        """The key as the file has it."""
        return f"{self.name}.{key}"

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the file has none."""
        self._asked.add(self.full(key))
        return self.keys.get(self.full(key), default)

    def integer(self, key: str, default: int | None = None, smallest: int = 1, largest: int = LARGEST) -> int:
        """An integer; ModelFileError names the key."""
        value = self.get(key, default)
        if type(value) is not int or not smallest <= value <= largest:
            raise ModelFileError(f"key {self.full(key)!r} is {_short(value)}; it must be an integer from {smallest} to {largest}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; ModelFileError names the key."""
        value = self.get(key, default)
        if type(value) is not float or not 0 < value < math.inf:
            raise ModelFileError(f"key {self.full(key)!r} is {_short(value)}; it must be a positive number")
        return float(str(np.float32(value)))  # stored as float32: the shortest decimal that means it, 1e-05 and not 9.99999974e-06

    def one_of(self, key: str, default: str, *others: str) -> str:
        """One of a few words; UnsupportedModelError names the key and the words."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in (default, *others):
            known = ", ".join(map(repr, (default, *others)))
            raise UnsupportedModelError(f"key {self.full(key)!r} = {_short(value)} is not implemented; implemented: {known}")
        return value

    def repeats(self, key: str, value: int) -> None:
        """Accept the key if it is missing or says this, too."""
        if self.get(key, value) != value:
            raise UnsupportedModelError(f"key {self.full(key)!r} is {_short(self.get(key))}; implemented: {value}")

    def refuse_the_rest(self) -> None:
        """UnsupportedModelError: a key that nobody asked for, so that nobody knows what it changes."""
        for key, value in self.keys.items():
            if key in FIXED_KEYS and FIXED_KEYS[key] != value:
                raise UnsupportedModelError(f"key {key!r} is {_short(value)}; implemented: {FIXED_KEYS[key]!r}")
            if key not in self._asked and not key.startswith(SILENT_PREFIXES):
                raise UnsupportedModelError(f"key {key!r:.80} = {_short(value)} is not implemented, so the model cannot be run faithfully")


def architecture_of(keys: Mapping[str, Any]) -> Architecture:
    """The architecture that the metadata names; UnsupportedModelError says which are implemented."""
    return ARCHITECTURES[Metadata(keys).name]


def hf_config(keys: Mapping[str, Any], rope_factors: Mapping[str, F32], tied: bool) -> dict[str, Any]:
    """The `config.json` keys that the metadata means.

    rope_factors: what the tensors among the architecture's `rope_factors` hold
    tied:         the head is the embedding, that is, the file has no output.weight

    UnsupportedModelError: another architecture, or a key that is not understood. ModelFileError: a key missing or of the wrong kind.
    """
    metadata = Metadata(keys)
    architecture = ARCHITECTURES[metadata.name]
    config = dict(architecture.config) | {"model_type": architecture.model_type, "tie_word_embeddings": tied}
    config |= _dimensions(metadata)
    config |= _token_ids(keys, config["vocab_size"])
    if architecture.model_type == "phi3":
        config |= _phi3(metadata)
    elif architecture.model_type == "gemma3_text":
        config |= _gemma3(metadata, config)
    elif architecture.model_type == "bitnet":
        config["hidden_act"] = metadata.one_of("hidden_act", "silu", "relu2") if metadata.name == "bitnet" else "relu2"
    if scaling := _rope_scaling(metadata, architecture, rope_factors, config):
        config["rope_scaling"] = scaling
    metadata.refuse_the_rest()
    return config


def _dimensions(metadata: Metadata) -> dict[str, Any]:
    """What every architecture has, with the specification's defaults."""
    hidden, heads = metadata.integer("embedding_length"), metadata.integer("attention.head_count")
    if hidden % heads and metadata.get("attention.key_length") is None:
        raise ModelFileError(
            f"keys {metadata.full('embedding_length')!r} = {hidden} and {metadata.full('attention.head_count')!r} = {heads} do not divide"
        )
    head_dim = metadata.integer("attention.key_length", hidden // heads)
    if head_dim % 2:
        raise ModelFileError(f"the head dimension is {head_dim}; rotary embedding needs an even one")
    for key in ("attention.value_length", "rope.dimension_count"):  # a width of the values' own, a rotation of a part of the head
        metadata.repeats(key, head_dim)
    tokens = metadata.keys.get("tokenizer.ggml.tokens")
    return {
        "hidden_size": hidden,
        "intermediate_size": metadata.integer("feed_forward_length"),
        "num_hidden_layers": metadata.integer("block_count", largest=MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
        "max_position_embeddings": metadata.integer("context_length"),
        "vocab_size": metadata.integer("vocab_size", len(tokens) if isinstance(tokens, list) else None),
    }


def _phi3(metadata: Metadata) -> dict[str, Any]:
    return {
        "original_max_position_embeddings": metadata.integer("rope.scaling.original_context_length", metadata.get("context_length")),
        "sliding_window": metadata.integer("attention.sliding_window", 0, smallest=0) or None,
    }


def _gemma3(metadata: Metadata, config: Mapping[str, Any]) -> dict[str, Any]:
    """The pattern is a period, whose last layer attends to everything, or says of each layer whether its attention slides."""
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    key = "attention.sliding_window_pattern"
    slides = metadata.get(key)
    if not isinstance(slides, list):
        period = metadata.integer(key, 6)
        slides = [(layer + 1) % period != 0 for layer in range(layers)]
    if len(slides) != layers or not all(isinstance(value, bool) for value in slides):
        raise ModelFileError(f"key {metadata.full(key)!r} is {_short(slides)}; it must be a period, or {layers} truth values")
    largest = layers == 62  # Gemma 3 27B, which alone scales by hidden_size / heads; no key says so
    return {
        "layer_types": ["sliding_attention" if value else "full_attention" for value in slides],
        "sliding_window": metadata.integer("attention.sliding_window"),
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10000.0),
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if largest else head_dim,
    }


def _rope_scaling(
    metadata: Metadata, architecture: Architecture, factors: Mapping[str, F32], config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Hugging Face's `rope_scaling`. Factors per frequency, as Llama 3 has them too, are its "longrope": the same for short and long
    contexts where the file has but one list."""
    kind = metadata.one_of("rope.scaling.type", "none", "linear", "longrope")
    if factors and kind != "linear":
        long, short = (_factors(name, factors, config["head_dim"] // 2) for name in architecture.rope_factors)
        return {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "attention_factor": metadata.number("rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": config.get("original_max_position_embeddings", config["max_position_embeddings"]),
        }
    if factors or kind == "longrope":
        raise UnsupportedModelError(
            f"key {metadata.full('rope.scaling.type')!r} is {kind!r}, with {', '.join(factors) or 'no tensor of factors'}: not implemented"
        )
    return {"rope_type": "linear", "factor": metadata.number("rope.scaling.factor")} if kind == "linear" else None


def _factors(name: str, factors: Mapping[str, F32], frequencies: int) -> list[float]:
    """What each frequency is divided by, as a tensor has it; ModelFileError names the tensor."""
    if name not in factors:
        raise ModelFileError(f"tensor {name} is missing")
    values = factors[name]
    if values.shape != (frequencies,) or not ((values > 0) & (values < np.inf)).all():
        raise ModelFileError(f"tensor {name} of shape {values.shape} does not hold {frequencies} positive numbers, one for each frequency")
    return [float(value) for value in values]


def _token_ids(keys: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """bos_token_id, eos_token_id (a list where several tokens end a turn) and pad_token_id, where given."""
    ids: dict[str, int] = {}
    for name in ("bos", "eos", "eot", "eom", "padding"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key in keys:
            if type(keys[key]) is not int or not 0 <= keys[key] < vocab_size:
                raise ModelFileError(f"key {key!r} is {_short(keys[key])}; it must be a token id below {vocab_size}")
            ids[name] = keys[key]
    ends = list(dict.fromkeys([*(ids[name] for name in ("eos", "eot", "eom") if name in ids), *turn_ends(keys)]))
    config: dict[str, Any] = {
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ids.get("padding"),
    }
    return {key: value for key, value in config.items() if value not in (None, [])}


def _short(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.40}"
