"""What GGUF calls the tensors of a model, in Hugging Face's words, architecture by architecture.

GGUF's names are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "LLM"; which architecture has which is in
llama.cpp's gguf-py/gguf/constants.py, and what its converter does to the tensors in convert_hf_to_gguf.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import UnsupportedModelError

MODEL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_PATTERN = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.([a-z_]+\.[a-z]+)")

NORMS = {"attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight"}
HEAD_NORMS = {"attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight"}
MATRICES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WEIGHTS = {f"{name}.weight": f"{module}.weight" for name, module in MATRICES.items()}
SCALES = {f"{name}.scale": f"{module}.weight_scale" for name, module in MATRICES.items()}
QKV_BIASES = {f"{name}.bias": f"{MATRICES[name]}.bias" for name in ("attn_q", "attn_k", "attn_v")}


@dataclass(frozen=True)
class Architecture:
    """One of GGUF's architectures.

    model_type:    Hugging Face's name for it
    config:        config keys that are the same for every model of it
    layer_tensors: GGUF's name of a layer's tensor -> Hugging Face's; several names: their rows stand one below the other
    rope_factors:  tensors that hold what the rope's frequencies are divided by, in long contexts and in short ones; they may be missing
    neighbours:    rows of q and k are stored for a rope that rotates neighbouring elements; Hugging Face's rotates halves of a head
    activations:   what such a model was trained to quantize activations to, one of `checkpoint.ACTIVATIONS`
    """

    model_type: str
    config: Mapping[str, Any]
    layer_tensors: Mapping[str, str | tuple[str, ...]]
    rope_factors: tuple[str, ...] = ()
    neighbours: bool = False
    activations: str = "int8-g32"

    def hf_names(self, name: str) -> tuple[str, ...]:
        """The Hugging Face names of what a GGUF tensor holds, from the top down.

        UnsupportedModelError: a tensor that a model of this architecture does not have.
        """
        if name in MODEL_TENSORS:
            return (MODEL_TENSORS[name],)
        match = LAYER_PATTERN.fullmatch(name)
        if match is None or match[2] not in self.layer_tensors:
            raise UnsupportedModelError(
                f"tensor {name!r} is not part of a {self.model_type} model as implemented, so the model cannot be run faithfully"
            )
        parts = self.layer_tensors[match[2]]
        return tuple(f"model.layers.{match[1]}.{part}" for part in ((parts,) if isinstance(parts, str) else parts))


def rows_of(name: str, config: Mapping[str, Any]) -> int:
    """How many rows a matrix has that is stored together with others, by its Hugging Face name."""
    heads, kv_heads, head_dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    ffn = config["intermediate_size"]
    rows = {"q_proj": heads * head_dim, "k_proj": kv_heads * head_dim, "v_proj": kv_heads * head_dim, "gate_proj": ffn, "up_proj": ffn}
    return int(rows[name.split(".")[-2]])


def hf_row_order(rows: int, heads: int) -> npt.NDArray[np.intp]:
    """Which GGUF row is row i of a q or k projection in Hugging Face's order, where neighbours are rotated: intp [rows].

    llama.cpp's converter stores row (h, t, i) of [heads, 2, E/2] as (h, i, t).
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).ravel()


LLAMA = Architecture(
    model_type="llama",
    config={"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    layer_tensors=NORMS | WEIGHTS,
    rope_factors=("rope_freqs.weight", "rope_freqs.weight"),
    neighbours=True,
)
QWEN2 = Architecture(
    model_type="qwen2",
    config={"architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "use_sliding_window": False},
    layer_tensors=NORMS | WEIGHTS | QKV_BIASES,
)
QWEN3 = Architecture(
    model_type="qwen3",
    config={"architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    layer_tensors=NORMS | WEIGHTS | HEAD_NORMS,
)
PHI3 = Architecture(
    model_type="phi3",
    config={"architectures": ["Phi3ForCausalLM"], "hidden_act": "silu"},
    layer_tensors=NORMS
    | {
        "attn_qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "attn_output.weight": "self_attn.o_proj.weight",
        "ffn_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "ffn_down.weight": "mlp.down_proj.weight",
    },
    rope_factors=("rope_factors_long.weight", "rope_factors_short.weight"),
)
GEMMA3 = Architecture(
    model_type="gemma3_text",
    config={"architectures": ["Gemma3ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
    layer_tensors=WEIGHTS
    | HEAD_NORMS
    | {
        "attn_norm.weight": "input_layernorm.weight",
        "post_attention_norm.weight": "post_attention_layernorm.weight",
        "ffn_norm.weight": "pre_feedforward_layernorm.weight",
        "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
    },
)
BITNET = Architecture(
    model_type="bitnet",
    config={"architectures": ["BitNetForCausalLM"], "attention_bias": False},
    layer_tensors=NORMS
    | WEIGHTS
    | SCALES
    | {"attn_sub_norm.weight": "self_attn.attn_sub_norm.weight", "ffn_sub_norm.weight": "mlp.ffn_sub_norm.weight"},
    activations="int8-token",
)
ARCHITECTURES = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "phi3": PHI3,
    "gemma3": GEMMA3,
    "bitnet": BITNET,
    "bitnet-b1.58": BITNET,
}
"""By `general.architecture`."""
