"""A small model, synthetic: random weights in every scheme, dimensions that share no factor by accident."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgellm.formats.architecture import tensor_shapes
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.matrix import INT4, INT4_MIN, INT8, QuantizedMatrix, Scheme, pack_codes

VOCAB = 271  # padded, as many models are: more than the tests' tokenizer has, and no multiple of a tile
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
SCHEMES: Mapping[str, Scheme] = {"q_proj": INT4, "k_proj": INT4_MIN, "o_proj": INT4_MIN, "gate_proj": INT4, "up_proj": INT4_MIN}


def random_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Tensor:
    """Norm weights around 1; matrices whose rows have a length of about 1, in the scheme of their name or int8."""
    if len(shape) == 1:
        return rng.normal(1, 0.2, shape).astype(np.float32)
    scheme = next((scheme for part, scheme in SCHEMES.items() if part in name), INT8)
    rows, cols = shape
    low, high = (-128, 128) if scheme is INT8 else (0, 16)
    codes = rng.integers(low, high, (1, *shape))
    scales = rng.uniform(0.5, 1.5, (rows, cols // 32)) * 3.5 / (high - low) / np.sqrt(cols)
    minimums = (-7.5 * scales).astype(np.float16) if scheme.has_min else None
    return QuantizedMatrix(scheme, pack_codes(scheme, codes), scales.astype(np.float16), minimums)


def checkpoint(tokenizer_json: str = "{}", seed: int = 0, **changes: Any) -> Checkpoint:
    """A model of CONFIG with some keys changed."""
    config = CONFIG | changes
    rng = np.random.default_rng(seed)
    tensors = {name: random_tensor(rng, name, shape) for name, shape in tensor_shapes(config)}
    return Checkpoint(config, tensors, tokenizer_json, None, {"source": "synthetic", "source_sha256": "", "format": "synthetic"})
