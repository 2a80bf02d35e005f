"""From a checkpoint to packed matrices, and the files that are refused on the way, by the tensor's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.errors import EdgeLLMError, ModelFileError, UnsupportedModelError
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tmac2 import write_tmac2
from edgellm.model.config import ModelConfig
from edgellm.runtime.weights import load_weights
from tests.unit.runtime.synthetic import checkpoint

UP, DOWN, NORM = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"
SHAPES = ("num_hidden_layers", "vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings")
Edit = Callable[[dict[str, Tensor]], object]


def edited(given: Checkpoint, edit: Edit) -> Checkpoint:
    tensors = dict(given.tensors)
    edit(tensors)
    return replace(given, tensors=tensors)


def dense(tensor: Tensor) -> np.ndarray[Any, Any]:
    assert isinstance(tensor, QuantizedMatrix)
    return tensor.dequantize()


def test_every_matrix_is_packed_as_it_was() -> None:
    given = checkpoint()
    weights, arena = load_weights(given, ModelConfig.from_hf(given.config))
    names = {"model.embed_tokens.weight": weights.embed_tokens, "lm_head.weight": weights.lm_head}
    for i, layer in enumerate(weights.layers):
        for part in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ):
            names[f"model.layers.{i}.{part}.weight"] = getattr(layer, part.split(".")[1])
    for name, packed in names.items():
        np.testing.assert_array_equal(packed.unpack().dequantize(), dense(given.tensors[name]), err_msg=name)
        assert packed.codes.ctypes.data % 64 == 0
    assert arena.nbytes >= sum(packed.nbytes for packed in names.values())
    for i in range(2):
        for norm, called in (("input_layernorm", "input_layernorm"), ("pre_feedforward_layernorm", "post_attention_layernorm")):
            np.testing.assert_array_equal(getattr(weights.layers[i], norm), given.tensors[f"model.layers.{i}.{called}.weight"])


def test_a_tied_head_is_the_embedding_itself() -> None:
    given = checkpoint(tie_word_embeddings=True)
    weights, _ = load_weights(given, ModelConfig.from_hf(given.config))
    assert weights.lm_head is weights.embed_tokens


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda t: t.pop(UP), ModelFileError, f"tensor {UP} is missing"),
        (lambda t: t.pop(NORM), ModelFileError, f"tensor {NORM} is missing"),
        (lambda t: t.update(extra=t[NORM]), UnsupportedModelError, "tensor extra is not part of a Llama model"),
        (lambda t: t.update({UP: t[DOWN]}), ModelFileError, f"tensor {UP} has shape (64, 96); the config asks for (96, 64)"),
        (lambda t: t.update({NORM: np.ones(65, np.float32)}), ModelFileError, f"tensor {NORM} has shape (65,)"),
        (lambda t: t.update({UP: dense(t[UP])}), UnsupportedModelError, f"tensor {UP} is float32, and matrices must be quantized"),
    ],
    ids=["missing matrix", "missing vector", "extra", "misshapen matrix", "misshapen vector", "float matrix"],
)  # fmt: skip
def test_other_tensors_than_the_configs_are_refused(
    edit: Edit, error: type[EdgeLLMError], message: str, tmp_path: Path, tokenizer_json: str
) -> None:
    path = tmp_path / "wrong.tmac2.bin"
    write_tmac2(path, edited(checkpoint(tokenizer_json), edit))
    with pytest.raises(error, match=re.escape(message)):
        edgellm.load(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["scales", "minimums", "vector"])
def test_weights_that_are_not_finite_are_refused(part: str, bad: float, tmp_path: Path, tokenizer_json: str) -> None:
    given = checkpoint(tokenizer_json)
    name = NORM if part == "vector" else UP
    tensor = given.tensors[name]
    np.asarray(tensor if part == "vector" else getattr(tensor, part)).flat[-1] = bad
    path = tmp_path / "broken.tmac2.bin"
    write_tmac2(path, given)
    with pytest.raises(ModelFileError, match=f"tensor {re.escape(name)} holds weights that are NaN or infinite; get the model anew"):
        edgellm.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 1 << 24),
        ("vocab_size", 1 << 24),
        ("hidden_size", 1 << 23),
        ("num_attention_heads", 1 << 24),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("tie_word_embeddings", True),
        ("num_hidden_layers", 1 << 62),
        ("max_position_embeddings", -1),
        ("rms_norm_eps", "small"),
        ("rope_theta", 0),
        ("max_position_embeddings", 0),
        ("sliding_window", 7),
    ],
)
def test_a_config_that_lies_about_its_tensors_is_refused(key: str, value: Any, tmp_path: Path, tokenizer_json: str) -> None:
    path = tmp_path / "hostile.tmac2.bin"
    honest = checkpoint(tokenizer_json)
    write_tmac2(path, replace(honest, config=honest.config | {key: value}))
    with pytest.raises(EdgeLLMError, match=key if key not in SHAPES else "tensor"):
        edgellm.load(path)
