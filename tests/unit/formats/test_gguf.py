from __future__ import annotations

import mmap
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats import gguf_header
from edgellm.formats.checkpoint import Tensor
from edgellm.formats.ggml_blocks import LOSSLESS
from edgellm.formats.gguf import decode, map_file, read_gguf
from edgellm.formats.gguf_header import TENSOR_TYPES, TensorInfo, parse_header
from edgellm.formats.gguf_names import LLAMA, hf_row_order
from edgellm.formats.matrix import QuantizedMatrix
from tests.unit.formats.synthetic import (
    HEAD_DIM,
    HEADS,
    HF_CONFIG,
    HIDDEN,
    KV_HEADS,
    TEMPLATE,
    VOCAB,
    gguf_string,
    gguf_weights,
    hf_weights,
    raw_gguf,
    same_bits,
    tensor_info,
    write_gguf,
)

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def floats(tensor: Any) -> npt.NDArray[Any]:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor


def test_a_model_comes_with_hf_names_and_keys(tmp_path: Path) -> None:
    checkpoint = read_gguf(write_gguf(tmp_path / "m.gguf"))
    assert checkpoint.config == HF_CONFIG
    assert checkpoint.chat_template == TEMPLATE
    assert checkpoint.provenance == {"source": "m.gguf", "format": "gguf"}
    assert '"<|im_start|>"' in checkpoint.tokenizer_json
    assert [(name, tensor.shape) for name, tensor in checkpoint.tensors.items()] == [(name, w.shape) for name, w in hf_weights().items()]
    with pytest.raises(KeyError):
        checkpoint.tensors["lm_head.weight"]


def test_an_output_tensor_is_the_separate_head(tmp_path: Path) -> None:
    head = np.ones((VOCAB, HIDDEN), np.float32)
    checkpoint = read_gguf(write_gguf(tmp_path / "m.gguf", tensors={"output.weight": head}, types={"output.weight": "F16"}))
    assert checkpoint.config["tie_word_embeddings"] is False
    assert same_bits(floats(checkpoint.tensors["lm_head.weight"]), head.astype(np.float16))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"llama.attention.head_count_kv": None, "llama.attention.head_count": 1, "llama.rope.dimension_count": 64},
            {"num_key_value_heads": 1},
        ),
        ({"llama.rope.freq_base": None}, {"rope_theta": 10000.0}),
        ({"llama.vocab_size": None}, {"vocab_size": VOCAB}),
        ({"llama.attention.layer_norm_rms_epsilon": 9.999999974752427e-07}, {"rms_norm_eps": 1e-06}),
        ({"llama.attention.key_length": 32, "llama.attention.value_length": 32}, {"head_dim": 32}),
        ({"tokenizer.ggml.eot_token_id": 0}, {"eos_token_id": [2, 0]}),
        ({"tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.padding_token_id": None}, {"eos_token_id": 2, "pad_token_id": None}),
    ],
)
def test_config_defaults_and_exact_values(tmp_path: Path, keys: dict[str, Any], expected: dict[str, Any]) -> None:
    one_head = keys.get("llama.attention.head_count") == 1
    tensors = {f"blk.{i}.attn_{x}.weight": np.zeros((64, 64), np.float32) for i in (0, 1) for x in "kv"} if one_head else {}
    config = read_gguf(write_gguf(tmp_path / "m.gguf", keys=keys, tensors=tensors)).config
    assert {key: config.get(key) for key in expected} == expected


@pytest.mark.parametrize("matrix_type", ["F32", "Q8_0"])
def test_rows_of_q_and_k_come_back_in_hf_order(tmp_path: Path, matrix_type: str) -> None:
    stored = {}
    for name, heads in (("blk.0.attn_q.weight", HEADS), ("blk.0.attn_k.weight", KV_HEADS)):
        weights = gguf_weights()[name]
        stored[name] = weights.reshape(heads, 2, HEAD_DIM // 2, HIDDEN).swapaxes(1, 2).reshape(weights.shape)  # as llama.cpp's converter
    tensors = read_gguf(write_gguf(tmp_path / "m.gguf", tensors=stored, matrix_type=matrix_type)).tensors
    for name in stored:
        expected = gguf_weights()[name]
        if matrix_type == "Q8_0":
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
        assert same_bits(floats(tensors[LLAMA.hf_names(name)[0]]), expected)


def adversarial_blocks(kind: str, rows: int = 6, blocks: int = 3) -> npt.NDArray[np.uint8]:
    """Every byte random, and the float16 fields that start a block taken from signed zeros, subnormals, extremes and ordinary values."""
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, (rows, blocks, GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]), np.uint8)
    specials = np.array([-0.0, 0.0, 6e-8, -6e-8, 6.1e-5, 65504, -65504, 1, -0.1234, 3e-3], np.float16)
    two, last = kind in ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"), kind in ("Q2_K", "Q3_K", "Q6_K", "TQ1_0", "TQ2_0")
    fields = 4 if two else 2
    raw[:, :, slice(-fields, None) if last else slice(fields)] = rng.choice(specials, (rows, blocks, fields // 2)).view(np.uint8)
    if kind == "TQ2_0":
        raw[:, :, :64] &= ~(raw[:, :, :64] >> 1 & 0x55)  # a code is 0, 1 or 2
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", [name for name, _, _ in TENSOR_TYPES.values()])
def test_every_type_gives_ggml_floats_bit_for_bit(tmp_path: Path, kind: str) -> None:
    ggml_type = GGMLQuantizationType[kind]
    raw = (
        adversarial_blocks(kind)
        if kind not in ("BF16", "F16", "F32")
        else gguf.quants.quantize(gguf_weights()["blk.0.attn_q.weight"], ggml_type)
    )
    path = tmp_path / "t.gguf"
    writer = gguf.GGUFWriter(path, "any")
    writer.add_tensor("t", raw, raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    data = map_file(path)
    tensor = decode(parse_header(data, path).tensors["t"], data)
    assert isinstance(tensor, QuantizedMatrix) == (kind in LOSSLESS)
    expected = gguf.quants.dequantize(raw, ggml_type)
    assert same_bits(floats(tensor), expected.astype(np.float16) if kind == "F16" else expected)


def test_a_quantized_vector_is_dequantised(tmp_path: Path) -> None:
    tensors = read_gguf(write_gguf(tmp_path / "m.gguf", types={"output_norm.weight": "Q8_0"})).tensors
    expected = gguf.quants.quantize(gguf_weights()["output_norm.weight"], GGMLQuantizationType.Q8_0)
    assert same_bits(floats(tensors["model.norm.weight"]), gguf.quants.dequantize(expected, GGMLQuantizationType.Q8_0))


def test_the_table_of_types_is_ggmls() -> None:
    assert {n: (GGMLQuantizationType(n).name, *GGML_QUANT_SIZES[GGMLQuantizationType(n)]) for n in TENSOR_TYPES} == TENSOR_TYPES


@pytest.mark.parametrize(
    ("keys", "error", "named"),
    [
        ({"llama.rope.scaling.type": "yarn"}, UnsupportedModelError, "llama.rope.scaling.type' = 'yarn'"),
        ({"llama.expert_count": 8}, UnsupportedModelError, "llama.expert_count' = 8"),
        ({"mystery.key": [1] * 1000}, UnsupportedModelError, "mystery.key"),
        ({"llama.rope.dimension_count": 16}, UnsupportedModelError, "llama.rope.dimension_count' is 16"),
        ({"llama.attention.value_length": 64}, UnsupportedModelError, "llama.attention.value_length"),
        ({"general.type": "adapter"}, UnsupportedModelError, "general.type' is 'adapter'"),
        ({"general.quantization_version": 1}, UnsupportedModelError, "general.quantization_version"),
        ({"llama.block_count": None}, ModelFileError, "llama.block_count' is missing"),
        ({"llama.block_count": 0}, ModelFileError, "llama.block_count"),
        ({"llama.block_count": 10**4}, ModelFileError, "model.layers.2.input_layernorm.weight is missing"),
        ({"llama.block_count": 10**9}, ModelFileError, "llama.block_count' is 1000000000; it must be an integer from 1 to 65536"),
        ({"llama.attention.head_count_kv": [1, 1]}, ModelFileError, "llama.attention.head_count_kv"),
        ({"llama.attention.layer_norm_rms_epsilon": "1e-5"}, ModelFileError, "llama.attention.layer_norm_rms_epsilon"),
        ({"llama.rope.freq_base": float("inf")}, ModelFileError, "llama.rope.freq_base"),
        ({"llama.attention.head_count": 3}, ModelFileError, "llama.attention.head_count"),
        ({"llama.attention.key_length": 33, "llama.rope.dimension_count": 33}, ModelFileError, "head dimension is 33"),
        ({"tokenizer.ggml.eos_token_id": VOCAB}, ModelFileError, "tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.bos_token_id": [1]}, ModelFileError, "tokenizer.ggml.bos_token_id"),
        ({"tokenizer.chat_template": 7}, ModelFileError, "tokenizer.chat_template"),
        ({"llama.vocab_size": None, "tokenizer.ggml.tokens": 5}, ModelFileError, "llama.vocab_size"),
    ],
)
def test_a_key_that_is_not_understood_is_named(tmp_path: Path, keys: dict[str, Any], error: type[Exception], named: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", keys=keys)
    with pytest.raises(error, match=r"m\.gguf") as caught:
        read_gguf(path)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("rope_factors_long.weight", np.ones(16, np.float32), UnsupportedModelError, "rope_factors_long.weight"),
        ("blk.0.attn_q.bias", np.ones(64, np.float32), UnsupportedModelError, "blk.0.attn_q.bias"),
        ("blk.0.attn_q_norm.weight", np.ones(32, np.float32), UnsupportedModelError, "blk.0.attn_q_norm.weight"),
        ("blk.2.attn_norm.weight", np.ones(64, np.float32), UnsupportedModelError, "model.layers.2.input_layernorm.weight"),
        ("blk.1.ffn_up.weight", None, ModelFileError, "model.layers.1.mlp.up_proj.weight is missing"),
        ("blk.1.ffn_up.weight", np.ones((96, 32), np.float32), ModelFileError, r"mlp.up_proj.weight has shape \(96, 32\)"),
    ],
)
def test_a_tensor_that_does_not_belong_is_named(tmp_path: Path, name: str, weights: Any, error: type[Exception], message: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", tensors={name: weights})
    with pytest.raises(error, match=message):
        read_gguf(path)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(UnsupportedModelError, match=r"'general.architecture' is 'mamba'; implemented: 'llama'"):
        read_gguf(path)


U32, ARRAY, STRING = 4, 9, 8


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ModelFileError, "empty"),
        (b"GGUF", ModelFileError, "needs 8 bytes"),
        (b"GGML\3\0\0\0" + bytes(16), ModelFileError, "not a GGUF file"),
        (raw_gguf([], [], version=1), UnsupportedModelError, "version 1 is not read"),
        (raw_gguf([], [], version=3 << 24), UnsupportedModelError, "big-endian"),
        (raw_gguf([], [], keys=1 << 60), ModelFileError, "more than a file of"),
        (raw_gguf([], [], data=bytes(1 << 21), keys=1 << 17), UnsupportedModelError, "at most 65536"),
        (raw_gguf([gguf_string("key")], [])[:33], ModelFileError, "the name of key 0: a string of 3 bytes"),
        (raw_gguf([gguf_string("k") + struct.pack("<I", 99)], []), ModelFileError, "key 'k' has the value type 99"),
        (
            raw_gguf([gguf_string("k") + struct.pack("<IQ", STRING, 1 << 62)], []),
            ModelFileError,
            "key 'k': a string of 4611686018427387904 bytes",
        ),
        (
            raw_gguf([gguf_string("k") + struct.pack("<IIQ", ARRAY, U32, 1 << 61)], []),
            ModelFileError,
            "key 'k' needs 9223372036854775808 bytes",
        ),
        (raw_gguf([gguf_string("k") + struct.pack("<IIQ", ARRAY, STRING, 1 << 61)], []), ModelFileError, "key 'k' needs"),
        (raw_gguf([gguf_string("k") + struct.pack("<IIQ", ARRAY, STRING, 3) + gguf_string("ab")], []), ModelFileError, "key 'k'"),
        (raw_gguf([gguf_string("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1)], []), ModelFileError, "key 'k' has the value type 9"),
        (raw_gguf([gguf_string(b"\xff")], []), ModelFileError, "not UTF-8"),
        (raw_gguf([gguf_string("k" * 70000)], []), ModelFileError, "65535 bytes are possible"),
        (raw_gguf([gguf_string("k") + struct.pack("<IB", 0, 1)] * 2, []), ModelFileError, "key 'k' occurs twice"),
        (raw_gguf([gguf_string("general.alignment") + struct.pack("<II", U32, 24)], []), ModelFileError, "power of two"),
        (raw_gguf([gguf_string("general.alignment") + struct.pack("<II", U32, 0)], []), ModelFileError, "power of two"),
        (raw_gguf([], [tensor_info("n" * 65)], data=bytes(128)), ModelFileError, "64 bytes are possible"),
        (raw_gguf([], [tensor_info(kind=24)], data=bytes(128)), UnsupportedModelError, "'t' is of type I8, which is not read"),
        (raw_gguf([], [tensor_info(kind=999)], data=bytes(128)), UnsupportedModelError, "number 999"),
        (raw_gguf([], [tensor_info(dims=(1,) * 5)], data=bytes(128)), ModelFileError, "5 dimensions"),
        (raw_gguf([], [tensor_info(dims=())], data=bytes(128)), ModelFileError, "0 dimensions"),
        (raw_gguf([], [tensor_info(dims=(0, 4))], data=bytes(128)), ModelFileError, r"shape \(4, 0\)"),
        (raw_gguf([], [tensor_info(dims=(33,), kind=8)], data=bytes(128)), ModelFileError, "whole Q8_0 blocks of 32"),
        (raw_gguf([], [tensor_info(dims=(1 << 40, 1 << 40))], data=bytes(128)), ModelFileError, "'t' .* does not lie"),
        (raw_gguf([], [tensor_info(offset=32)], data=bytes(128)), ModelFileError, "'t' .* does not lie"),
        (raw_gguf([], [tensor_info(offset=1)], data=bytes(256)), ModelFileError, "aligned to 32"),
        (raw_gguf([], [tensor_info(), tensor_info()], data=bytes(256)), ModelFileError, "tensor 't' occurs twice"),
        (raw_gguf([], [tensor_info("a"), tensor_info("b", offset=96)], data=bytes(256)), ModelFileError, "'a' and 'b' overlap"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_corrupt_header_is_refused_by_what_is_wrong(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_gguf(path)


ELEMENTS = {0: b"\1", 2: struct.pack("<H", 300), 5: struct.pack("<i", 300), 12: struct.pack("<d", 0.3), STRING: gguf_string("ā")}


@pytest.mark.parametrize("kind", ELEMENTS)
def test_array_elements_are_counted_for_what_they_take_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    monkeypatch.setattr(gguf_header, "MAX_ELEMENTS", 100_000)

    def peak(*counts: int) -> int:
        """Bytes of memory that parsing arrays of so many elements takes."""
        arrays = [struct.pack("<IIQ", ARRAY, kind, count) + ELEMENTS[kind] * count for count in counts]
        path = tmp_path / "m.gguf"
        path.write_bytes(raw_gguf([gguf_string(f"general.{i}") + array for i, array in enumerate(arrays)], []))
        data = map_file(path)
        tracemalloc.start()
        try:
            parse_header(data, path)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(50_000, 50_000) < 100_000 * 100
    with pytest.raises(UnsupportedModelError, match=r"arrays up to key 'general\.1' have 100001 elements; at most 100000 are read"):
        peak(50_000, 50_001)


def test_gguf_version_2_is_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    raw = bytearray(path.read_bytes())
    raw[4] = 2
    path.write_bytes(raw)
    assert read_gguf(path).config == HF_CONFIG


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileError, match="cannot be read"):
            read_gguf(path)


def test_the_row_order_inverts_llama_cpps() -> None:
    rows = np.arange(12)
    stored = rows.reshape(2, 2, 3).swapaxes(1, 2).ravel()
    assert (stored[hf_row_order(12, heads=2)] == rows).all()


def test_a_tensor_is_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def watched(info: TensorInfo, data: mmap.mmap, rows: slice) -> Tensor:
        decoded.append(info.name)
        return decode(info, data, rows)

    monkeypatch.setattr("edgellm.formats.gguf.decode", watched)
    checkpoint = read_gguf(write_gguf(tmp_path / "m.gguf"))
    assert decoded == []
    assert checkpoint.tensors["model.norm.weight"].shape == (HIDDEN,)
    assert decoded == ["output_norm.weight"]
