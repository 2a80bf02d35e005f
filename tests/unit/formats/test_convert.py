from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import FetchError, InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.formats.digest import sha256_of
from edgellm.formats.gguf import read_gguf
from edgellm.formats.matrix import F32, INT8, QuantizedMatrix
from edgellm.formats.tmac2 import read_tmac2, verify
from edgellm.quantize.convert import ConversionReport, convert
from edgellm.quantize.rtn import quantize_int8
from tests.unit.formats.synthetic import (
    GGUF_SHAPES,
    HEAD_DIM,
    HEADS,
    HF_CONFIG,
    HIDDEN,
    VOCAB,
    gguf_weights,
    hf_weights,
    same_bits,
    write_gguf,
    write_hf,
)

UP = "model.layers.1.mlp.up_proj.weight"


def floats(tensor: Any) -> Any:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor


@pytest.mark.parametrize("matrix_type", ["Q4_0", "Q4_1", "Q8_0"])
def test_keep_gives_the_same_floats_bit_for_bit(tmp_path: Path, matrix_type: str) -> None:
    source = write_gguf(tmp_path / "m.gguf", matrix_type=matrix_type)
    convert(source, tmp_path / "m.bin", progress=False)
    before, after = read_gguf(source), read_tmac2(tmp_path / "m.bin")
    assert (before.config, before.tokenizer_json, before.chat_template) == (after.config, after.tokenizer_json, after.chat_template)
    assert list(before.tensors) == list(after.tensors)
    for name, tensor in before.tensors.items():
        assert same_bits(floats(tensor), floats(after.tensors[name])), name
    assert verify(tmp_path / "m.bin") == []


@pytest.mark.parametrize("other", ["F32", "F16", "BF16", "Q5_0", "Q5_1"])
def test_keep_refuses_what_it_cannot_store(tmp_path: Path, other: str) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"blk.1.ffn_up.weight": other})
    with pytest.raises(UnsupportedModelError, match=rf"{UP} is {other}, .* use --scheme int8"):
        convert(source, tmp_path / "m.bin", progress=False)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {**HF_CONFIG, "rope_scaling": {"rope_type": "llama3"}}}, "m: config key rope_scaling = .* is not implemented"),
        ({"config": {**HF_CONFIG, "sliding_window": 64}}, "m: config key sliding_window = 64 is unknown"),
        ({"config": {**HF_CONFIG, "eos_token_id": VOCAB}}, f"m: .* eos_token_id = {VOCAB}, which is not among"),
        ({"tokenizer_json": "{}"}, "m: the model's tokenizer.json cannot be read"),
    ],
)
def test_what_would_not_load_is_not_converted(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = write_hf(tmp_path / "m", **changes)
    with pytest.raises((UnsupportedModelError, ModelFileError), match=message):
        convert(source, tmp_path / "m.bin", scheme="int8", progress=False)
    assert list(tmp_path.iterdir()) == [source]


def test_heads_that_are_null_are_as_many_as_there_are(tmp_path: Path) -> None:
    weights = hf_weights() | {
        f"model.layers.{i}.self_attn.{name}_proj.weight": np.ones((HEADS * HEAD_DIM, HIDDEN), np.float32) for i in (0, 1) for name in "kv"
    }
    source = write_hf(tmp_path / "m", weights, {**HF_CONFIG, "num_key_value_heads": None})
    convert(source, tmp_path / "m.bin", scheme="int8", progress=False)
    assert read_tmac2(tmp_path / "m.bin").config["num_key_value_heads"] is None


def test_keep_stores_norms_as_float32(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"output_norm.weight": "F16"})
    convert(source, tmp_path / "m.bin", progress=False)
    norm = read_tmac2(tmp_path / "m.bin").tensors["model.norm.weight"]
    assert same_bits(floats(norm), gguf_weights()["output_norm.weight"].astype(np.float16).astype(np.float32))


def test_int8_rounds_every_matrix_and_keeps_what_is_int8(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"token_embd.weight": "Q8_0", "blk.1.ffn_up.weight": "F16"})
    convert(source, tmp_path / "m.bin", scheme="int8", progress=False)
    before, after = read_gguf(source).tensors, read_tmac2(tmp_path / "m.bin").tensors
    for name, tensor in after.items():
        if isinstance(tensor, QuantizedMatrix):
            assert tensor.scheme == INT8
            kept = name == "model.embed_tokens.weight"
            expected = before[name] if kept else quantize_int8(name, floats(before[name]).astype(np.float32))
            assert same_bits(tensor.dequantize(), floats(expected))
        else:
            assert tensor.ndim == 1


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    convert(write_hf(tmp_path / "m"), tmp_path / "m.bin", scheme="int8", progress=False)
    checkpoint = read_tmac2(tmp_path / "m.bin")
    assert checkpoint.config == HF_CONFIG
    assert checkpoint.provenance["source_sha256"] == sha256_of(tmp_path / "m")
    assert np.abs(floats(checkpoint.tensors[UP]) - hf_weights()[UP]).max() < 0.02


def test_the_report_and_the_provenance(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    report = convert(source, tmp_path / "m.bin", progress=False)
    matrices = sum(np.prod(shape) for shape in GGUF_SHAPES.values() if len(shape) == 2)
    vectors = sum(np.prod(shape) for shape in GGUF_SHAPES.values() if len(shape) == 1)
    assert report == ConversionReport(
        source=source,
        destination=tmp_path / "m.bin",
        scheme="keep",
        tensors=len(GGUF_SHAPES),
        source_bytes=int(matrices * 5 / 8 + vectors * 4),
        destination_bytes=(tmp_path / "m.bin").stat().st_size,
        bits_per_weight=float((matrices * 5 + vectors * 32) / (matrices + vectors)),
    )
    provenance = read_tmac2(tmp_path / "m.bin").provenance
    assert (provenance["source"], provenance["format"], provenance["source_sha256"]) == ("m.gguf", "gguf", sha256_of(source))
    assert (provenance["schemes"], provenance["calibration"]) == (["keep"], None)


def test_a_model_converted_again_keeps_its_source_and_lists_its_steps(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    convert(source, tmp_path / "a.bin", progress=False)
    convert(tmp_path / "a.bin", tmp_path / "b.bin", scheme="int8", progress=False)
    provenance = read_tmac2(tmp_path / "b.bin").provenance
    assert (provenance["source_sha256"], provenance["schemes"]) == (sha256_of(source), ["keep", "int8"])


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    convert(source, tmp_path / "a.bin", progress=False)
    convert(source, tmp_path / "b.bin", progress=True)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_a_refused_conversion_leaves_the_old_file(tmp_path: Path) -> None:
    convert(write_gguf(tmp_path / "m.gguf"), tmp_path / "m.bin", progress=False)
    before = (tmp_path / "m.bin").read_bytes()
    infinite = write_gguf(tmp_path / "n.gguf", tensors={"blk.1.ffn_up.weight": np.full((96, 64), np.inf, np.float32)}, matrix_type="F32")
    with pytest.raises(UnsupportedModelError, match=f"{UP} has a weight that is not finite"):
        convert(infinite, tmp_path / "m.bin", scheme="int8", progress=False)
    assert (tmp_path / "m.bin").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    wide = {"llama.feed_forward_length": 4096, "llama.block_count": 8}
    shapes = {"ffn_gate": (4096, 64), "ffn_up": (4096, 64), "ffn_down": (64, 4096)}
    tensors = {f"blk.{i}.{name}.weight": np.ones(shapes.get(name, shape), np.float32) for i in range(8) for name, shape in LAYER.items()}
    source = write_gguf(tmp_path / "m.gguf", keys=wide, tensors=tensors)
    largest = 4096 * 64 * 4
    tracemalloc.start()
    convert(source, tmp_path / "m.bin", scheme="int8", progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * largest < 24 * largest  # 24 matrices of that size


LAYER = {name.split(".")[2]: shape for name, shape in GGUF_SHAPES.items() if name.startswith("blk.0.")}


def test_a_source_is_not_written_over(tmp_path: Path) -> None:
    source, folder, link = write_gguf(tmp_path / "m.gguf"), write_hf(tmp_path / "m"), tmp_path / "link"
    link.symlink_to(source)
    for path, destination in [(source, source), (source, link), (link, source), (folder, folder / "model.safetensors")]:
        before = destination.read_bytes()
        with pytest.raises(InvalidRequestError, match=f"{destination.name} is what is to be converted; give the name of another file"):
            convert(path, destination, scheme="int8", progress=False)
        assert destination.read_bytes() == before


def test_bad_arguments(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    with pytest.raises(InvalidRequestError, match="scheme 'int3' is unknown; possible: keep, int8"):
        convert(source, tmp_path / "m.bin", scheme="int3")
    with pytest.raises(InvalidRequestError, match="is a folder; give the name of a file"):
        convert(source, tmp_path)
    with pytest.raises(FetchError, match="cannot be written"):
        convert(source, source / "m.bin", progress=False)
    with pytest.raises(ModelFileError, match="cannot be read"):
        convert(tmp_path / "none.gguf", tmp_path / "m.bin")


def test_rounding_stays_within_half_a_step() -> None:
    weights = np.random.default_rng(0).standard_normal((50, 96), np.float32) * np.float32(3)
    matrix = quantize_int8("w", weights)
    largest = np.abs(weights.reshape(50, 3, 32)).max(axis=-1)
    assert same_bits(matrix.scales, (largest / np.float32(127)).astype(np.float16))
    scales = matrix.scales.astype(np.float64)[:, :, None]
    error = np.abs(weights.astype(np.float64).reshape(50, 3, 32) - matrix.integer_codes()[0].reshape(50, 3, 32) * scales)
    assert (error <= scales * (0.5 + 127 * 2**-11)).all()  # half a step, and what rounding the scale to float16 costs the largest


def test_halves_round_to_even_and_zeros_stay_zero() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    matrix = quantize_int8("w", weights)
    assert matrix.integer_codes()[0, 0, :6].tolist() == [127, 0, 2, 2, 0, -2]
    assert not matrix.scales[0, 1]
    assert not matrix.dequantize()[:, 32:].any()


@pytest.mark.parametrize("largest", [1e-30, 6e-8 * 127, 1e-5, 65504 * 126.9])
def test_the_smallest_and_largest_scales(largest: float) -> None:
    weights: F32 = np.linspace(-largest, largest, 32, dtype=np.float32)[None]
    matrix = quantize_int8("w", weights)
    step = max(float(matrix.scales[0, 0]), 2**-24)
    assert np.abs(matrix.dequantize() - weights).max() <= step * 127 / 2
    assert np.isfinite(matrix.scales).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e8])
def test_weights_without_a_scale_are_refused(bad: float) -> None:
    weights = np.ones((2, 32), np.float32)
    weights[1, 3] = bad
    with pytest.raises(UnsupportedModelError, match="tensor w has a weight that is not finite, or above"):
        quantize_int8("w", weights)


def test_rows_that_are_not_whole_groups_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="tensor w has 40 columns; int8-g32 needs a multiple of 32"):
        quantize_int8("w", np.ones((2, 40), np.float32))
