"""Tiny random models of every family with every feature on, made by NumPy alone, and the same weights as Hugging Face stores them.

Weights are exact in float32 and in a scheme of ours (int8 or trits, with power-of-two scales), so that another implementation in float32
runs on the very same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.formats.architecture import tensor_shapes
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.matrix import INT8, QuantizedMatrix, Scheme, pack_codes

F32 = npt.NDArray[np.float32]
TERNARY = Scheme("ternary", "tensor")
LENGTH = 96  # tokens of a text: beyond every window and every original context below but where a case is about the short one
RECORDED = slice(5, None, 6)
"""The positions whose logits are recorded, the last of them the text's last."""
_SIZE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 288,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.0, 1.125, 1.25, 1.375, 1.5, 1.75, 2.0],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0],
}
_PHI3 = _SIZE | {"model_type": "phi3", "rms_norm_eps": 1e-5, "sliding_window": 20, "rope_scaling": _LONGROPE, "tie_word_embeddings": False}

CONFIGS: Mapping[str, dict[str, Any]] = {
    "llama": _SIZE | {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    "llama3": _SIZE
    | {
        "model_type": "llama",
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "tie_word_embeddings": True,
    },
    "qwen2": _SIZE
    | {
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "use_sliding_window": True,
        "sliding_window": 24,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": _SIZE | {"model_type": "qwen3", "head_dim": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False},
    "phi3_short": _PHI3 | {"original_max_position_embeddings": 128},
    "phi3_long": _PHI3 | {"original_max_position_embeddings": 32},
    "gemma3": _SIZE
    | {
        "model_type": "gemma3_text",
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 24,
        "sliding_window": 20,
        "sliding_window_pattern": 2,
        "rope_theta": 1e5,
        "rope_local_base_freq": 1e3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "tie_word_embeddings": True,
    },
    "bitnet": _SIZE
    | {"model_type": "bitnet", "hidden_act": "relu2", "rms_norm_eps": 1e-5, "rope_theta": 500.0, "tie_word_embeddings": True},
}
"""Grouped heads, one key head for all, heads wider than the hidden rows, tied and untied heads are spread over them."""
CONTEXTS = {"phi3_short": 128}
"""The engine's context where it is not the model's longest: it chooses between the factors of a long rope."""


def tokens() -> list[int]:
    """A text of LENGTH tokens."""
    return list(map(int, np.random.default_rng(7).integers(2, 288, LENGTH)))


def checkpoint(name: str, tokenizer_json: str = "{}") -> Checkpoint:
    """The model of CONFIGS under that name; BitNet's activations have one scale a token, as its authors' have."""
    config = CONFIGS[name]
    rng = np.random.default_rng(list(name.encode()))
    tensors = {tensor: _drawn(rng, config, tensor, shape) for tensor, shape in tensor_shapes(config)}
    activations = "int8-token" if config["model_type"] == "bitnet" else "int8-g32"
    return Checkpoint(config, tensors, tokenizer_json, None, {"source": "synthetic", "format": "synthetic"}, activations)


def _drawn(rng: np.random.Generator, config: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    """Norms around 1, biases around 0, matrices whose rows have a length of about 1; all of few bits."""
    if name.endswith("bias"):
        return (rng.integers(-64, 65, shape) / 128).astype(np.float32)
    if len(shape) == 1:
        return (1 + rng.integers(-64, 65, shape) / 256).astype(np.float32)
    scales = np.full((shape[0], shape[1] // 32), 2.0**-9, np.float16)
    if name.startswith("model.layers") and config["model_type"] == "bitnet":
        return QuantizedMatrix(TERNARY, pack_codes(TERNARY, rng.integers(0, 3, (1, *shape))), np.full((1, 1), 0.125, np.float16))
    return QuantizedMatrix(INT8, pack_codes(INT8, rng.integers(-127, 128, (1, *shape))), scales)


def dense(tensor: Tensor) -> F32:
    """Its weights."""
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor.astype(np.float32)


def digest(given: Checkpoint) -> str:
    """SHA-256 of the weights: whoever compares logits can first see that they are of the same model."""
    return hashlib.sha256(b"".join(dense(tensor).astype("<f4").tobytes() for tensor in given.tensors.values())).hexdigest()


def hf_weights(given: Checkpoint) -> dict[str, F32]:
    """The weights as transformers' models have them: Phi-3's fused, Gemma's norms less 1."""
    family = given.config["model_type"]
    weights = {name: dense(tensor) for name, tensor in given.tensors.items()}
    if family == "gemma3_text":
        return {name: w - np.float32(1) if name.endswith("norm.weight") else w for name, w in weights.items()}
    if family == "phi3":
        for layer in (f"model.layers.{i}" for i in range(given.config["num_hidden_layers"])):
            for fused, parts in (("self_attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
                room = f"{layer}.{fused.split('.')[0]}"
                weights[f"{layer}.{fused}.weight"] = np.concatenate([weights.pop(f"{room}.{part}_proj.weight") for part in parts])
    return weights


def packed_bitnet(given: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    """The weights as BitNet models are stored: trits packed along the rows, four to a byte, each matrix with its weight_scale."""
    stored: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in given.tensors.items():
        if isinstance(tensor, QuantizedMatrix) and tensor.scheme == TERNARY:
            quarters = tensor.integer_codes()[0].astype(np.uint8).reshape(4, -1, tensor.shape[1])
            stored[name] = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
            stored[f"{name}_scale"] = tensor.scales[0].astype(np.float32)
        else:
            stored[name] = dense(tensor)
    return stored
