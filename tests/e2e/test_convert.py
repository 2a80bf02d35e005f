"""The converted file against the published one, as another implementation reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from edgellm.formats.gguf_names import LLAMA
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tmac2 import read_tmac2, verify


def test_every_weight_is_kept_bit_for_bit(model_path: Path, model_gguf: Path) -> None:
    """What the gguf package dequantises from the published file is what the converted file dequantises to."""
    assert verify(model_path) == []
    checkpoint = read_tmac2(model_path)
    heads = {"q_proj": checkpoint.config["num_attention_heads"], "k_proj": checkpoint.config["num_key_value_heads"]}
    published = GGUFReader(model_gguf).tensors
    assert len(published) == len(checkpoint.tensors) == 272
    for tensor in published:
        name, shape = LLAMA.hf_names(tensor.name)[0], tuple(reversed(tensor.shape.tolist()))
        expected = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)).reshape(shape)
        if (count := heads.get(name.split(".")[-2])) is not None:  # from llama.cpp's order of rows
            expected = expected.reshape(count, len(expected) // count // 2, 2, -1).swapaxes(1, 2).reshape(shape)
        converted = checkpoint.tensors[name]
        weights = converted.dequantize() if isinstance(converted, QuantizedMatrix) else np.asarray(converted)
        assert weights.dtype == expected.dtype == np.float32
        assert weights.shape == shape
        assert (weights.view(np.uint32) == np.ascontiguousarray(expected).view(np.uint32)).all(), name
