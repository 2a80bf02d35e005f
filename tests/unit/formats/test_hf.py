from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.hf import read_hf
from edgellm.formats.matrix import QuantizedMatrix
from tests import tiny
from tests.unit.formats.synthetic import HF_CONFIG, TOKENIZER_JSON, edit_safetensors_header, hf_weights, same_bits, write_hf

NORM = "model.norm.weight"
TRITS = "model.layers.1.self_attn.q_proj.weight"
QKV = "model.layers.1.self_attn.qkv_proj.weight"
OFFLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}


def write_shards(folder: Path) -> Path:
    write_hf(folder)
    (folder / "model.safetensors").unlink()
    weights = hf_weights()
    names = list(weights)
    shards = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / shard)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("write", [write_hf, write_shards])
def test_a_model_in_one_file_or_in_shards(tmp_path: Path, write: Any) -> None:
    checkpoint = read_hf(write(tmp_path / "m"))
    assert checkpoint.config == HF_CONFIG
    assert checkpoint.tokenizer_json == TOKENIZER_JSON
    assert checkpoint.chat_template is None
    assert checkpoint.provenance == {"source": "m", "format": "huggingface"}
    assert list(checkpoint.tensors) == list(hf_weights())
    for name, weights in hf_weights().items():
        tensor = checkpoint.tensors[name]
        assert isinstance(tensor, np.ndarray)
        assert same_bits(tensor, weights)


@pytest.mark.parametrize(("generation", "ends"), [('{"eos_token_id": [2, 0]}', [2, 0]), ("{}", HF_CONFIG["eos_token_id"])])
def test_the_ends_of_a_turn_are_those_of_the_generation_config(tmp_path: Path, generation: str, ends: Any) -> None:
    (write_hf(tmp_path) / "generation_config.json").write_text(generation)
    assert read_hf(tmp_path).config == {**HF_CONFIG, "eos_token_id": ends}


def test_half_precision(tmp_path: Path) -> None:
    weights = {name: value.astype(np.float16) for name, value in hf_weights().items()}
    tensor = read_hf(write_hf(tmp_path, weights)).tensors[NORM]
    assert isinstance(tensor, np.ndarray)
    assert same_bits(tensor, weights[NORM])


def test_bfloat16_is_exact(tmp_path: Path) -> None:
    bits = {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in hf_weights().items()}
    bits[NORM][:8] = [0x8000, 0x0001, 0x7F80, 0xFF80, 0x7FC0, 0x7F7F, 0x0080, 0x807F]  # -0, a subnormal, infinities, NaN, extremes
    write_hf(tmp_path, bits)
    edit_safetensors_header(tmp_path / "model.safetensors", lambda header: [entry.update(dtype="BF16") for entry in header.values()])
    checkpoint = read_hf(tmp_path)
    for name, value in bits.items():
        tensor = checkpoint.tensors[name]
        assert isinstance(tensor, np.ndarray)
        assert same_bits(tensor, (value.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"chat_template.jinja": "A"}, "A"),
        ({"chat_template.jinja": "A", "tokenizer_config.json": '{"chat_template": "B"}'}, "A"),
        ({"tokenizer_config.json": '{"chat_template": "B"}'}, "B"),
        ({"tokenizer_config.json": '{"chat_template": [{"name": "tool", "template": "C"}, {"name": "default", "template": "D"}]}'}, "D"),
        ({"tokenizer_config.json": "{}"}, None),
    ],
)
def test_where_the_chat_template_is_found(tmp_path: Path, files: dict[str, str], template: str | None) -> None:
    write_hf(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_hf(tmp_path).chat_template == template


def test_rotary_frequencies_are_left_out(tmp_path: Path) -> None:
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)}
    assert list(read_hf(write_hf(tmp_path, hf_weights() | frequencies)).tensors) == list(hf_weights())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json: cannot be read"),
        ("config.json", "{", "config.json: is not JSON"),
        ("config.json", "[" * 100_000, "config.json: is not JSON"),
        ("config.json", "[]", "config.json: is not a JSON object"),
        ("model.safetensors", None, "model.safetensors: not a readable safetensors file"),
        ("model.safetensors", "{}", "model.safetensors: not a readable safetensors file"),
        ("tokenizer.json", None, "tokenizer.json: cannot be read"),
        ("generation_config.json", "[]", "is not a JSON object"),
        ("tokenizer_config.json", '{"chat_template": 5}', "chat_template is neither a string nor a list"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_named(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    write_hf(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ModelFileError, match=message):
        read_hf(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"lm_head.weight": np.ones((12, 64), np.float32)}, UnsupportedModelError, "lm_head.weight is not part"),
        ({"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}, UnsupportedModelError, "q_proj.bias is not part"),
        ({NORM: np.ones(64, np.int64)}, UnsupportedModelError, f"{NORM} is of type I64, which is not read; read are: F32, F16, BF16"),
        ({NORM: np.ones(63, np.float32)}, ModelFileError, rf"{NORM} has shape \(63,\)"),
    ],
)
def test_a_tensor_that_does_not_belong_is_named(tmp_path: Path, changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_hf(write_hf(tmp_path, {**hf_weights(), **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "gpt2"}, UnsupportedModelError, "config key model_type = 'gpt2' is not implemented"),
        ({"num_hidden_layers": True}, ModelFileError, "'num_hidden_layers' is True"),
        ({"num_attention_heads": 65, "head_dim": None}, ModelFileError, "'head_dim' is 0"),
        ({"vocab_size": -1}, ModelFileError, "'vocab_size' is -1"),
    ],
)
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_hf(write_hf(tmp_path, config={**HF_CONFIG, **changes}))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "names '../model.safetensors', which is not a file of this folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd', which is not a file of this folder"),
        ({"weight_map": {"a": ".."}}, "names '..', which is not a file of this folder"),
        ({"weight_map": {"a": 5}}, "names 5, which is not a file of this folder"),
        ({"weight_map": {"a": ["b"]}}, r"names \['b'\], which is not a file of this folder"),
        ({"weight_map": {"a": "none.safetensors"}}, "none.safetensors: not a readable"),
    ],
)
def test_an_index_is_not_trusted(tmp_path: Path, index: Any, message: str) -> None:
    write_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=message):
        read_hf(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file(hf_weights(), tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(ModelFileError, match=r"is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors"):
        read_hf(tmp_path)


@pytest.mark.parametrize("name", [name for name in tiny.CONFIGS if name != "bitnet"])
def test_every_family_is_read_as_it_is_stored(name: str, tmp_path: Path) -> None:
    given = tiny.checkpoint(name)
    read = read_hf(write_hf(tmp_path, tiny.hf_weights(given), given.config))
    assert list(read.tensors) == list(given.tensors)
    assert read.activations == "int8-g32"
    for tensor in given.tensors:
        assert same_bits(tiny.dense(read.tensors[tensor]), tiny.dense(given.tensors[tensor])), tensor


def write_bitnet(folder: Path, changes: Mapping[str, Any] = {}) -> Path:
    """A packed BitNet; changes replace or add tensors, None removes."""
    given = tiny.checkpoint("bitnet")
    stored = {name: tensor for name, tensor in {**tiny.packed_bitnet(given), **changes}.items() if tensor is not None}
    return write_hf(folder, stored, {**given.config, "quantization_config": OFFLINE})


def test_packed_trits_are_kept_as_they_are(tmp_path: Path) -> None:
    given, read = tiny.checkpoint("bitnet"), read_hf(write_bitnet(tmp_path))
    assert read.activations == "int8-token"
    for name, expected in given.tensors.items():
        tensor = read.tensors[name]
        if isinstance(expected, QuantizedMatrix) and expected.scheme == tiny.TERNARY:
            assert isinstance(tensor, QuantizedMatrix)
            assert tensor.scheme == expected.scheme
            assert same_bits(tensor.codes, expected.codes)
            assert same_bits(tensor.scales, expected.scales)
        else:
            assert same_bits(tiny.dense(tensor), tiny.dense(expected))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({f"{TRITS}_scale": None}, ModelFileError, f"{TRITS}_scale is missing; without it the packed"),
        ({f"{TRITS}_scale": np.ones(2, np.float32)}, ModelFileError, r"_scale is F32 \(2,\); one float is needed"),
        ({f"{TRITS}_scale": np.ones(1, np.uint8)}, ModelFileError, r"_scale is U8 \(1,\); one float is needed"),
        ({f"{TRITS}_scale": np.full(1, 0.1, np.float32)}, UnsupportedModelError, "_scale = 0.1 can't be kept exactly: ternary scales are"),
        ({f"{TRITS}_scale": np.full(1, 1e6, np.float32)}, UnsupportedModelError, r"_scale = 1e\+06 can't be kept exactly"),
        ({f"{TRITS}_scale": np.full(1, np.nan, np.float32)}, UnsupportedModelError, "_scale = nan can't be kept exactly"),
        ({TRITS: np.full((16, 64), 0xC0, np.uint8)}, ModelFileError, f"{TRITS} holds a code that is no trit"),
        ({TRITS: np.zeros((15, 64), np.uint8)}, ModelFileError, rf"{TRITS} has shape \(60, 64\); the config asks for \(64, 64\)"),
        ({TRITS: np.zeros((16, 63), np.uint8)}, ModelFileError, f"{TRITS} has shape .* packed are matrices of a multiple of 32 columns"),
        ({TRITS: np.zeros((64, 64), np.float32)}, UnsupportedModelError, f"{TRITS}_scale is not part of a BitNet model"),
        ({"model.norm.weight_scale": np.ones(1, np.float32)}, UnsupportedModelError, "model.norm.weight_scale is not part of a BitNet"),
    ],
)
def test_packed_trits_that_are_none_are_refused(tmp_path: Path, changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_hf(write_bitnet(tmp_path, changes)).tensors[TRITS]


def test_packed_trits_mean_nothing_where_the_config_does_not_say_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"is of type U8, which is not read; read are: F32, F16, BF16"):
        read_hf(write_hf(tmp_path, tiny.packed_bitnet(tiny.checkpoint("bitnet")), tiny.CONFIGS["bitnet"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({QKV: np.zeros((127, 64), np.float32)}, rf"{QKV} has shape \(127, 64\); the config asks for 128 rows"),
        ({QKV: np.zeros(128, np.float32)}, rf"{QKV} has shape \(128,\); the config asks for 128 rows"),
        ({QKV: np.zeros((128, 32), np.float32)}, r"self_attn.q_proj.weight has shape \(64, 32\); the config asks for \(64, 64\)"),
        (
            {QKV.replace("qkv", "q"): np.zeros((64, 64), np.float32)},
            r"q_proj.weight is stored twice: as .*q.*_proj.weight and as .*q.*_proj",
        ),
    ],
)
def test_fused_tensors_of_another_shape_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    given = tiny.checkpoint("phi3_short")
    with pytest.raises(ModelFileError, match=message):
        read_hf(write_hf(tmp_path, tiny.hf_weights(given) | changes, given.config))


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    shard = write_shards(tmp_path) / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match=r"model-00002-of-00002.safetensors: not a readable safetensors file"):
        read_hf(tmp_path)


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    write_hf(tmp_path)

    def overlap(header: dict[str, Any]) -> None:
        header[NORM]["data_offsets"] = [offset - 4 for offset in header[NORM]["data_offsets"]]

    edit_safetensors_header(tmp_path / "model.safetensors", overlap)
    with pytest.raises(ModelFileError, match=r"model.safetensors: not a readable safetensors file"):
        read_hf(tmp_path)
