"""What GGUF calls the parts of a Llama model, in Hugging Face's words: config keys, tensor names, the order of q and k rows.

GGUF's names are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "LLM".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import ModelFileError, UnsupportedModelError

CONFIG_KEYS = {
    "llama.embedding_length": "hidden_size",
    "llama.feed_forward_length": "intermediate_size",
    "llama.block_count": "num_hidden_layers",
    "llama.attention.head_count": "num_attention_heads",
    "llama.attention.head_count_kv": "num_key_value_heads",
    "llama.attention.key_length": "head_dim",
    "llama.attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "llama.rope.freq_base": "rope_theta",
    "llama.context_length": "max_position_embeddings",
    "llama.vocab_size": "vocab_size",
}
CHECKED_KEYS = ("llama.rope.dimension_count", "llama.attention.value_length")
"""Keys that may only repeat the head dimension: partial rotation and a value width of its own are not implemented."""

FLOAT_KEYS = ("rms_norm_eps", "rope_theta")
FIXED_KEYS = {"general.type": "model", "general.quantization_version": 2}
"""Keys that would change what the tensors mean if they had another value; they may be missing."""

SILENT_PREFIXES = ("general.", "tokenizer.", "quantize.imatrix.")
"""Metadata that no computation of the forward pass depends on; `tokenizer.` is judged by `gguf_tokenizer`."""

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_PATTERN = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.([a-z_]+)\.weight")


def hf_config(metadata: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """The `config.json` keys that the metadata means.

    tied: the head is the embedding, that is, the file has no output.weight.
    UnsupportedModelError: another architecture, or a key that is not understood. ModelFileError: a key missing or of the wrong kind.
    """
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedModelError(f"key 'general.architecture' is {_short(architecture)}; implemented: 'llama'")
    _refuse_unknown_keys(metadata)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
    }
    defaults = _defaults(metadata)
    for key, name in CONFIG_KEYS.items():
        value = metadata.get(key, defaults.get(key))
        config[name] = _positive_float(key, value) if name in FLOAT_KEYS else _positive_int(key, value)
    for key, implemented in [*FIXED_KEYS.items(), *((key, config["head_dim"]) for key in CHECKED_KEYS)]:
        if metadata.get(key, implemented) != implemented:
            raise UnsupportedModelError(f"key {key!r} is {_short(metadata[key])}; implemented: {implemented!r}")
    if config["head_dim"] % 2:
        raise ModelFileError(f"the head dimension is {config['head_dim']}; rotary embedding needs an even one")
    return config | _token_ids(metadata, config["vocab_size"])


def hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor; UnsupportedModelError for a tensor that a Llama model does not have."""
    if name in MODEL_TENSORS:
        return MODEL_TENSORS[name]
    match = LAYER_PATTERN.fullmatch(name)
    if match is None or match[2] not in LAYER_TENSORS:
        raise UnsupportedModelError(f"tensor {name!r} is not part of a Llama model as implemented, so the model cannot be run faithfully")
    return f"model.layers.{match[1]}.{LAYER_TENSORS[match[2]]}.weight"


def hf_row_order(rows: int, heads: int) -> npt.NDArray[np.intp]:
    """Which GGUF row is row i of a q or k projection in Hugging Face's order: intp [rows].

    llama.cpp rotates neighbouring pairs and stores row (h, t, i) of [heads, 2, E/2] as (h, i, t); Hugging Face rotates halves.
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).ravel()


def _refuse_unknown_keys(metadata: Mapping[str, Any]) -> None:
    for key in metadata:
        if key not in CONFIG_KEYS and key not in CHECKED_KEYS and not key.startswith(SILENT_PREFIXES):
            raise UnsupportedModelError(
                f"key {key!r:.80} = {_short(metadata[key])} is not implemented, so the model cannot be run faithfully"
            )


def _defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the specification says about keys that a file may leave out."""
    heads, hidden = (_positive_int(key, metadata.get(key)) for key in ("llama.attention.head_count", "llama.embedding_length"))
    if "llama.attention.key_length" not in metadata and hidden % heads:
        raise ModelFileError(f"keys 'llama.embedding_length' = {hidden} and 'llama.attention.head_count' = {heads} do not divide")
    tokens = metadata.get("tokenizer.ggml.tokens")
    return {
        "llama.attention.head_count_kv": heads,
        "llama.attention.key_length": hidden // heads,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": len(tokens) if isinstance(tokens, list) else None,
    }


def _token_ids(metadata: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """bos_token_id, eos_token_id (a list where the file names several tokens that end a turn) and pad_token_id, where given."""
    ids: dict[str, int] = {}
    for name in ("bos", "eos", "eot", "eom", "padding"):
        key = f"tokenizer.ggml.{name}_token_id"
        if key in metadata:
            if type(metadata[key]) is not int or not 0 <= metadata[key] < vocab_size:
                raise ModelFileError(f"key {key!r} is {_short(metadata[key])}; it must be a token id below {vocab_size}")
            ids[name] = metadata[key]
    ends = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if name in ids))
    config: dict[str, Any] = {
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ids.get("padding"),
    }
    return {key: value for key, value in config.items() if value not in (None, [])}


def _positive_int(key: str, value: Any) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise ModelFileError(f"key {key!r} is {_short(value)}; it must be an integer from 1 to {2**31 - 1}")
    return value


def _positive_float(key: str, value: Any) -> float:
    if type(value) is not float or not 0 < value < math.inf:
        raise ModelFileError(f"key {key!r} is {_short(value)}; it must be a positive number")
    return float(str(np.float32(value)))  # stored as float32: the shortest decimal that means it, 1e-05 and not 9.99999974e-06


def _short(value: Any) -> str:
    return "missing" if value is None else f"{value!r:.40}"
