"""Small model files, synthetic: random weights in every format that is read."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from safetensors.numpy import save_file

from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf

F32 = npt.NDArray[np.float32]

HEADS, KV_HEADS, HEAD_DIM = 2, 1, 32
HIDDEN, FFN, VOCAB, LAYERS = 64, 96, 12, 2
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "ab", "abc", "Ġ", "Ġa", "d", "e"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "max_position_embeddings": 128,
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
GGUF_KEYS: dict[str, Any] = {
    "general.type": "model",
    "general.quantization_version": 2,
    "general.tags": ["synthetic"],
    "llama.block_count": LAYERS,
    "llama.context_length": 128,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": FFN,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 100000.0,
    "llama.rope.dimension_count": HEAD_DIM,
    "llama.vocab_size": VOCAB,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (VOCAB - 3),
    "tokenizer.ggml.merges": ["a b", "ab c", "Ġ a"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
}
LAYER_SHAPES = {
    "attn_norm": (HIDDEN,),
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_norm": (HIDDEN,),
    "ffn_gate": (FFN, HIDDEN),
    "ffn_up": (FFN, HIDDEN),
    "ffn_down": (HIDDEN, FFN),
}
GGUF_SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (VOCAB, HIDDEN),
    **{f"blk.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in LAYER_SHAPES.items()},
    "output_norm.weight": (HIDDEN,),
}


def gguf_weights(seed: int = 0) -> dict[str, F32]:
    """Random float32 weights under GGUF names."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in GGUF_SHAPES.items()}


def write_gguf(
    path: Path,
    keys: Mapping[str, Any] = {},
    tensors: Mapping[str, F32 | None] = {},
    types: Mapping[str, str] = {},
    matrix_type: str = "Q4_1",
    architecture: str = "llama",
) -> Path:
    """A complete model. keys and tensors replace or add, None removes; types names a tensor's type, else matrices are of matrix_type."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**GGUF_KEYS, **keys}.items():
        add_key(writer, key, value)
    for name, weights in {**gguf_weights(), **tensors}.items():
        if weights is not None:
            kind = GGMLQuantizationType[types.get(name, matrix_type if weights.ndim == 2 else "F32")]
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Integers as uint32 and floats as float32, which is how model files have them."""
    if value is None:
        return
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    add[type(value)](key, value)


def gguf_string(text: str | bytes) -> bytes:
    """A string as GGUF stores it."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def tensor_info(name: str | bytes = "t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    """A tensor info as GGUF stores it."""
    return gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def raw_gguf(entries: list[bytes], infos: list[bytes], version: int = 3, data: bytes = b"", keys: int | None = None) -> bytes:
    """A GGUF file from encoded parts, for what no writer would write."""
    header = (
        b"GGUF" + struct.pack("<IQQ", version, len(infos), len(entries) if keys is None else keys) + b"".join(entries) + b"".join(infos)
    )
    return header + bytes(-len(header) % 32) + data


TOKENIZER_JSON = tokenizer_json_from_gguf(GGUF_KEYS)
HF_NAMES = {
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


def hf_weights(seed: int = 0) -> dict[str, F32]:
    """Random float32 weights under Hugging Face names, in model order of the config."""
    order = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    rng = np.random.default_rng(seed)
    layers = {f"model.layers.{i}.{HF_NAMES[name]}.weight": LAYER_SHAPES[name] for i in range(LAYERS) for name in order}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), **layers, "model.norm.weight": (HIDDEN,)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_hf(
    folder: Path,
    tensors: Mapping[str, npt.NDArray[Any]] | None = None,
    config: Mapping[str, Any] = HF_CONFIG,
    tokenizer_json: str = TOKENIZER_JSON,
) -> Path:
    """A folder as the hub holds it: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(hf_weights() if tensors is None else tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return folder


def seal(raw: bytes | bytearray) -> bytes:
    """The same .tmac2.bin with the header's checksum made right, as far as there is a header with one: what a forger would write."""
    header, data = raw[8 : 8 + int.from_bytes(raw[:8], "little")], raw[8 + int.from_bytes(raw[:8], "little") :]
    key, digits = b'"header_checksum":"', 32
    start = header.find(key) + len(key)
    if start < len(key) or len(header) < start + digits:
        return bytes(raw)
    blank = header[:start] + b"0" * digits + header[start + digits :]
    checksum = hashlib.blake2b(blank, digest_size=16).hexdigest().encode()
    return bytes(raw[:8] + blank[:start] + checksum + blank[start + digits :] + data)


def edit_safetensors_header(path: Path, edit: Callable[[dict[str, Any]], object], sealed: bool = True) -> None:
    """Change the header's JSON in place; the data stays where it is if the header does not outgrow its padding."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % 64)
    changed = len(text).to_bytes(8, "little") + text + raw[8 + length :]
    path.write_bytes(seal(changed) if sealed else changed)


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Equal shape, type and bits: tells -0 from 0, and a NaN is itself."""
    return a.shape == b.shape and a.dtype == b.dtype and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
