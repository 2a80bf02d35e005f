"""GGUF files of every architecture that is read: keys, names, rows and rope factors in Hugging Face's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.gguf import read_gguf
from edgellm.formats.gguf_names import ARCHITECTURES
from edgellm.formats.matrix import QuantizedMatrix
from tests.unit.formats.gguf_families import COMMON_CONFIG, CONFIG, FACTORS, FFN, HEAD_DIM, HIDDEN, LAYERS, hf_weights, write_family
from tests.unit.formats.synthetic import raw_gguf, same_bits, tensor_info


def floats(tensor: Any) -> npt.NDArray[Any]:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor


def test_there_is_a_file_of_every_architecture() -> None:
    assert CONFIG.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_config_is_hugging_faces(tmp_path: Path, architecture: str) -> None:
    checkpoint = read_gguf(write_family(tmp_path / "m.gguf", architecture))
    assert checkpoint.config == COMMON_CONFIG | CONFIG[architecture]
    assert checkpoint.activations == ("int8-token" if architecture.startswith("bitnet") else "int8-g32")


@pytest.mark.parametrize("matrix_type", ["F32", "Q8_0", "Q5_0", "Q5_1", "TQ2_0"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_come_under_their_names_in_their_rows(tmp_path: Path, architecture: str, matrix_type: str) -> None:
    """Rows are put in order and fused matrices split while they are quantized: no weight is rounded on the way."""
    kind = GGMLQuantizationType[matrix_type]
    tensors = read_gguf(write_family(tmp_path / "m.gguf", architecture, matrix_type=matrix_type)).tensors
    expected = hf_weights(architecture)
    assert set(tensors) == set(expected)
    for name, weights in expected.items():
        stored = (
            gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind) if weights.ndim == 2 and matrix_type != "F32" else weights
        )
        assert same_bits(floats(tensors[name]), stored), name


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        ("phi3", {"attention.sliding_window": 0}, {"sliding_window": None}),
        ("phi3", {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": None}, {"attention_factor": 1.0}),
        ("phi3", {"rope.scaling.original_context_length": None}, {"original_max_position_embeddings": 128}),
        ("gemma3", {"attention.sliding_window_pattern": None}, {"layer_types": ["sliding_attention"] * 2}),
        ("gemma3", {"attention.sliding_window_pattern": [False, True]}, {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma3", {"rope.freq_base_swa": 5000.0}, {"rope_local_base_freq": 5000.0}),
        ("gemma3", {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("bitnet", {"hidden_act": "relu2"}, {"hidden_act": "relu2"}),
    ],
)
def test_what_a_key_means_and_what_it_means_if_it_is_missing(
    tmp_path: Path, architecture: str, keys: dict[str, Any], expected: dict[str, Any]
) -> None:
    config = read_gguf(write_family(tmp_path / "m.gguf", architecture, keys=keys)).config
    assert {key: (config | (config.get("rope_scaling") or {})).get(key) for key in expected} == expected


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_without_factors_the_rope_is_not_scaled(tmp_path: Path, architecture: str) -> None:
    gone = dict.fromkeys(ARCHITECTURES[architecture].rope_factors)
    path = write_family(tmp_path / "m.gguf", architecture, {"rope.scaling.attn_factor": None}, gone)
    assert "rope_scaling" not in read_gguf(path).config


def test_the_scale_of_a_ternary_matrix_multiplies_it(tmp_path: Path) -> None:
    """As llama.cpp's converter stored BitNet at first: trits, and the scale of all of them in a tensor of its own."""
    trits = np.random.default_rng(0).integers(-1, 2, (HIDDEN, HIDDEN)).astype(np.float32)
    scale = np.array([0.0123], np.float32)
    path = write_family(
        tmp_path / "m.gguf", "bitnet", tensors={"blk.1.attn_q.weight": trits, "blk.1.attn_q.scale": scale}, matrix_type="TQ1_0"
    )
    tensors = read_gguf(path).tensors
    assert same_bits(floats(tensors["model.layers.1.self_attn.q_proj.weight"]), trits * scale)
    assert isinstance(tensors["model.layers.0.self_attn.q_proj.weight"], QuantizedMatrix)


HALF = np.ones(HEAD_DIM // 2, np.float32)


@pytest.mark.parametrize(
    ("architecture", "keys", "tensors", "error", "message"),
    [
        ("llama", {}, {"rope_freqs.weight": HALF[:-1]}, ModelFileError, r"rope_freqs\.weight of shape \(31,\) does not hold 32 positive"),
        ("llama", {}, {"rope_freqs.weight": HALF * np.nan}, ModelFileError, r"rope_freqs\.weight"),
        ("llama", {}, {"rope_freqs.weight": HALF * 0}, ModelFileError, r"rope_freqs\.weight"),
        ("llama", {}, {"rope_freqs.weight": HALF[None]}, ModelFileError, r"rope_freqs\.weight has shape \(1, 32\); it must be a vector"),
        ("llama", {"rope.scaling.type": "linear"}, {}, UnsupportedModelError, r"'linear', with rope_freqs\.weight: not implemented"),
        ("llama", {"rope.scaling.type": "longrope"}, {"rope_freqs.weight": None}, UnsupportedModelError, "with no tensor of factors"),
        ("llama", {"rope.scaling.factor": 8.0}, {}, UnsupportedModelError, r"key 'llama\.rope\.scaling\.factor' = 8\.0"),
        ("llama", {"attention.sliding_window": 8}, {}, UnsupportedModelError, r"key 'llama\.attention\.sliding_window' = 8"),
        ("llama", {}, {"blk.0.attn_q.bias": np.ones(HIDDEN, np.float32)}, UnsupportedModelError, r"'blk\.0\.attn_q\.bias'"),
        ("qwen2", {}, {"rope_freqs.weight": HALF}, UnsupportedModelError, r"'rope_freqs\.weight' is not part of a qwen2 model"),
        ("qwen2", {}, {"blk.0.attn_q.bias": None}, ModelFileError, r"model\.layers\.0\.self_attn\.q_proj\.bias is missing"),
        ("qwen3", {}, {"blk.1.attn_k_norm.weight": None}, ModelFileError, r"model\.layers\.1\.self_attn\.k_norm\.weight is missing"),
        ("phi3", {"rope.dimension_count": 48}, {}, UnsupportedModelError, r"'phi3\.rope\.dimension_count' is 48; implemented: 64"),
        ("phi3", {"rope.scaling.type": "yarn"}, {}, UnsupportedModelError, r"'phi3\.rope\.scaling\.type' = 'yarn' is not implemented"),
        ("phi3", {}, {"rope_factors_long.weight": None}, ModelFileError, r"rope_factors_long\.weight is missing"),
        ("phi3", {}, {"blk.0.attn_qkv.weight": np.ones((96, 256), np.float32)}, ModelFileError, r"attn_qkv\.weight has shape \(96, 256\)"),
        ("phi3", {}, {"blk.0.ffn_gate.weight": np.ones((FFN, HIDDEN), np.float32)}, UnsupportedModelError, r"'blk\.0\.ffn_gate\.weight'"),
        ("gemma3", {"attention.sliding_window": None}, {}, ModelFileError, r"'gemma3\.attention\.sliding_window' is missing"),
        ("gemma3", {"attention.sliding_window_pattern": [True]}, {}, ModelFileError, r"a period, or 2 truth values"),
        ("gemma3", {"attention.sliding_window_pattern": [1, 0]}, {}, ModelFileError, r"a period, or 2 truth values"),
        ("gemma3", {"attention.sliding_window_pattern": 0}, {}, ModelFileError, r"'gemma3\.attention\.sliding_window_pattern' is 0"),
        ("gemma3", {"final_logit_softcapping": 30.0}, {}, UnsupportedModelError, r"'gemma3\.final_logit_softcapping' = 30\.0"),
        ("bitnet", {"hidden_act": "gelu"}, {}, UnsupportedModelError, r"'bitnet\.hidden_act' = 'gelu' .* 'silu', 'relu2'"),
        ("bitnet", {}, {"blk.0.attn_q.scale": np.ones(2, np.float32)}, ModelFileError, r"blk\.0\.attn_q\.scale is F32 of shape \(2,\)"),
        ("bitnet", {}, {f"blk.{LAYERS}.attn_q.scale": HALF[:1]}, ModelFileError, r"blk\.2\.attn_q\.scale scales nothing"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(
    tmp_path: Path, architecture: str, keys: dict[str, Any], tensors: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_gguf(write_family(tmp_path / "m.gguf", architecture, keys, tensors, matrix_type="F32"))


def test_factors_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    factors = (FACTORS * np.float32(1.1)).astype(np.float32)
    scaling = read_gguf(write_family(tmp_path / "m.gguf", "llama", tensors={"rope_freqs.weight": factors})).config["rope_scaling"]
    assert same_bits(np.array(scaling["long_factor"], np.float32), factors)


def test_a_code_that_stands_for_no_trit_is_refused(tmp_path: Path) -> None:
    path = write_family(tmp_path / "m.gguf", "qwen3", matrix_type="TQ2_0")
    raw = bytearray(path.read_bytes())
    raw[-FFN * HIDDEN // 256 * 66 :] = b"\xff" * (FFN * HIDDEN // 256 * 66)  # the last tensor
    path.write_bytes(raw)
    tensors = read_gguf(path).tensors
    with pytest.raises(ModelFileError, match=r"tensor blk\.1\.ffn_down\.weight: a block of TQ2_0 has the code 3"):
        tensors["model.layers.1.mlp.down_proj.weight"]


@pytest.mark.parametrize("kind", [36, 37, 38])
def test_a_type_of_a_fork_is_named_with_what_to_do(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(raw_gguf([], [tensor_info(kind=kind)], data=bytes(128)))
    with pytest.raises(
        UnsupportedModelError, match=r"is of type (I2_S|I8_S|TL1), which only a fork of ggml reads; .* edgellm pull hf:OWNER/NAME"
    ):
        read_gguf(path)
