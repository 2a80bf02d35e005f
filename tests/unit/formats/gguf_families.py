"""A small GGUF file of every architecture that is read, synthetic: random weights, and what they are in Hugging Face's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from tests.unit.formats.synthetic import GGUF_KEYS, add_key

F32 = npt.NDArray[np.float32]

LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2, 256, 512, 4, 2, 64, 12
COMMON_KEYS: dict[str, Any] = {
    "block_count": LAYERS,
    "context_length": 128,
    "embedding_length": HIDDEN,
    "feed_forward_length": FFN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1e6,
}
COMMON_CONFIG: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 128,
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
FACTORS: F32 = np.linspace(1, 32, HEAD_DIM // 2, dtype=np.float32)
KEYS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM},
    "phi3": {
        "attention.sliding_window": 20,
        "rope.dimension_count": HEAD_DIM,
        "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": 1.25,
    },
    "gemma3": {"attention.key_length": HEAD_DIM, "attention.sliding_window": 20, "attention.sliding_window_pattern": 2},
    "bitnet": {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
    "bitnet-b1.58": {},
}
CONFIG: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": FACTORS.tolist(),
            "long_factor": FACTORS.tolist(),
            "attention_factor": 1.0,
            "original_max_position_embeddings": 128,
        },
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "use_sliding_window": False},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
    },
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "sliding_window": 20,
        "original_max_position_embeddings": 64,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": (FACTORS / 4).tolist(),
            "long_factor": FACTORS.tolist(),
            "attention_factor": 1.25,
            "original_max_position_embeddings": 64,
        },
    },
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 20,
        "rope_local_base_freq": 10000.0,
        "query_pre_attn_scalar": HEAD_DIM,
    },
    "bitnet": {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "bitnet-b1.58": {"architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2", "attention_bias": False},
}
"""Beyond COMMON_CONFIG."""

Shapes = dict[str, tuple[int, ...]]
QUERIES, KEYS_VALUES = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
NORMS: Shapes = {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,)}
HEAD_NORMS: Shapes = {"self_attn.q_norm.weight": (HEAD_DIM,), "self_attn.k_norm.weight": (HEAD_DIM,)}
MATRICES: Shapes = {
    "self_attn.q_proj.weight": (QUERIES, HIDDEN),
    "self_attn.k_proj.weight": (KEYS_VALUES, HIDDEN),
    "self_attn.v_proj.weight": (KEYS_VALUES, HIDDEN),
    "self_attn.o_proj.weight": (HIDDEN, QUERIES),
    "mlp.gate_proj.weight": (FFN, HIDDEN),
    "mlp.up_proj.weight": (FFN, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, FFN),
}
BIASES: Shapes = {f"self_attn.{x}_proj.bias": (rows,) for x, rows in (("q", QUERIES), ("k", KEYS_VALUES), ("v", KEYS_VALUES))}
GEMMA_NORMS: Shapes = {f"{place}_feedforward_layernorm.weight": (HIDDEN,) for place in ("pre", "post")}
SUB_NORMS: Shapes = {"self_attn.attn_sub_norm.weight": (QUERIES,), "mlp.ffn_sub_norm.weight": (FFN,)}
LAYER_SHAPES: dict[str, Shapes] = {
    "llama": NORMS | MATRICES,
    "qwen2": NORMS | MATRICES | BIASES,
    "qwen3": NORMS | MATRICES | HEAD_NORMS,
    "phi3": NORMS | MATRICES,
    "gemma3": NORMS | MATRICES | HEAD_NORMS | GEMMA_NORMS,
    "bitnet": NORMS | MATRICES | SUB_NORMS,
    "bitnet-b1.58": NORMS | MATRICES | SUB_NORMS,
}
STORED_AS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_STORED_AS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def hf_weights(architecture: str, seed: int = 0) -> dict[str, F32]:
    """Random float32 weights under Hugging Face names."""
    rng = np.random.default_rng(seed)
    layers = {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in LAYER_SHAPES[architecture].items()}
    shapes: Shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), **layers, "model.norm.weight": (HIDDEN,)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def as_stored(architecture: str, weights: Mapping[str, F32]) -> dict[str, F32]:
    """The tensors of the file, as llama.cpp's converter makes them: renamed, rows of Llama's q and k permuted, Phi-3's fused."""
    names = STORED_AS | (GEMMA_STORED_AS if architecture == "gemma3" else {})
    stored = {"token_embd.weight": weights["model.embed_tokens.weight"], "output_norm.weight": weights["model.norm.weight"]}
    for layer in range(LAYERS):
        for name in LAYER_SHAPES[architecture]:
            module, kind = name.rsplit(".", 1)
            tensor = weights[f"model.layers.{layer}.{name}"]
            if architecture == "llama" and names[module] in ("attn_q", "attn_k"):
                tensor = tensor.reshape(-1, 2, HEAD_DIM // 2, HIDDEN).swapaxes(1, 2).reshape(tensor.shape)
            stored[f"blk.{layer}.{names[module]}.{kind}"] = tensor
    if architecture == "llama":
        stored["rope_freqs.weight"] = FACTORS
    if architecture == "phi3":
        stored |= {"rope_factors_long.weight": FACTORS, "rope_factors_short.weight": FACTORS / np.float32(4)}
        for layer in range(LAYERS):
            parts = {name: stored.pop(f"blk.{layer}.{name}.weight") for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")}
            stored[f"blk.{layer}.attn_qkv.weight"] = np.concatenate([parts["attn_q"], parts["attn_k"], parts["attn_v"]])
            stored[f"blk.{layer}.ffn_up.weight"] = np.concatenate([parts["ffn_gate"], parts["ffn_up"]])
    return stored


def write_family(
    path: Path,
    architecture: str,
    keys: Mapping[str, Any] = {},
    tensors: Mapping[str, F32 | None] = {},
    matrix_type: str = "Q8_0",
) -> Path:
    """A complete model. keys (without the architecture's prefix) and tensors replace or add, None removes."""
    writer = gguf.GGUFWriter(path, architecture)
    own = {f"{architecture}.{key}": value for key, value in {**COMMON_KEYS, **KEYS[architecture], **keys}.items()}
    for key, value in (own | {key: value for key, value in GGUF_KEYS.items() if not key.startswith("llama.")}).items():
        add_key(writer, key, value)
    for name, weights in {**as_stored(architecture, hf_weights(architecture)), **tensors}.items():
        if weights is not None:
            kind = GGMLQuantizationType[matrix_type if weights.ndim == 2 else "F32"]
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
