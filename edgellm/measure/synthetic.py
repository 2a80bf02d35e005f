"""Models of any size to time: random weights in the shape of known models, synthetic wherever they appear.

What such a model says is noise; how long it takes and what memory it needs is that of any model of its shape and schemes. Codes are
drawn as files hold them, so that no float matrix is ever in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from edgellm.formats.architecture import tensor_shapes
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.formats.gguf_vocabulary import CONTROL, NORMAL, PREFIX
from edgellm.formats.matrix import INTEGER_BITS, QuantizedMatrix, Scheme
from edgellm.formats.tensors import LazyTensors, TensorSpec, take_rows
from edgellm.text.spelling import BYTE_OF

TRIT_BYTES = 3**5
"""Values that a byte of five trits has."""


@dataclass(frozen=True)
class Shape:
    """The dimensions of a model; `keys`: what else its config says, the family and the rope for two."""

    of: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    keys: Mapping[str, Any]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SHAPES: Mapping[str, Shape] = {
    "135M": Shape("SmolLM2-135M", 576, 1536, 30, 9, 3, 64, 49152, True, {"model_type": "llama", "rope_theta": 1e5}),
    "0.5B": Shape("Qwen2-0.5B", 896, 4864, 24, 14, 2, 64, 151936, True, {"model_type": "qwen2", "rope_theta": 1e6}),
    "1B": Shape(
        "Llama-3.2-1B", 2048, 8192, 16, 32, 8, 64, 128256, True, {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3}
    ),
    "3.8B": Shape(
        "Phi-3-mini", 3072, 8192, 32, 32, 32, 96, 32064, False, {"model_type": "phi3", "rope_theta": 1e4, "sliding_window": 2047}
    ),
}
"""By their parameters; biases are zero, and contexts end at 4096."""


def checkpoint(shape: Shape, body: Scheme, head: Scheme) -> Checkpoint:
    """A model of this shape, its matrices in `body`, embedding and head in `head`. Its tokens are the 256 bytes and an end."""
    dimensions = {key: value for key, value in vars(shape).items() if key not in ("of", "keys")}
    config = {
        **dimensions,
        **shape.keys,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": len(BYTE_OF),
        "eos_token_id": len(BYTE_OF),
    }
    specs = {
        name: TensorSpec(dims, "float32" if len(dims) == 1 else str(body if "layers" in name else head), "synthetic")
        for name, dims in tensor_shapes(config)
    }
    drawn = lru_cache(maxsize=1)(lambda name: _drawn(name, specs[name]))  # whole, though it is written some rows at a time
    tokenizer = {"model": "gpt2", "pre": "gpt-2", "tokens": [*BYTE_OF, "<end>"], "token_type": [NORMAL] * 256 + [CONTROL], "merges": []}
    return Checkpoint(
        config=config,
        tensors=LazyTensors(specs, lambda name, rows: take_rows(drawn(name), rows)),
        tokenizer_json=tokenizer_json_from_gguf({PREFIX + key: value for key, value in tokenizer.items()}),
        provenance={"source": f"synthetic: random weights in the shape of {shape.of}", "source_sha256": "", "format": "synthetic"},
    )


def random_matrix(name: str, scheme: Scheme, rows: int, cols: int) -> QuantizedMatrix:
    """The same matrix for the same name: every code equally often, and rows of a length of about 1, so that activations stay finite."""
    rng = np.random.default_rng(list(hashlib.blake2b(name.encode(), digest_size=16).digest()))
    codes = rng.integers(TRIT_BYTES if scheme.is_trits else 256, size=(rows, scheme.code_bytes(cols)), dtype=np.uint8)
    levels = 3 if scheme.is_trits else 1 << INTEGER_BITS[scheme.family]
    scale = np.sqrt(12 / cols / scheme.planes) / levels
    scales = np.full(scheme.scales_shape(rows, cols), scale, np.float16)
    minimums = np.full_like(scales, -scale * (levels - 1) / 2) if scheme.has_min else None
    return QuantizedMatrix(scheme, codes.view(np.int8) if scheme.family == "int8" else codes, scales, minimums)


def _drawn(name: str, spec: TensorSpec) -> Tensor:
    if spec.scheme is None:
        return np.full(spec.shape, not name.endswith("bias"), np.float32)
    return random_matrix(name, spec.scheme, *spec.shape)
