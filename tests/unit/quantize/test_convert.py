from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import FetchError, InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.formats.digest import sha256_of
from edgellm.formats.gguf import read_gguf
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tmac2 import read_tmac2, verify
from edgellm.quantize.convert import ConversionReport, convert
from tests.unit.formats.synthetic import (
    GGUF_SHAPES,
    HF_CONFIG,
    VOCAB,
    gguf_weights,
    same_bits,
    write_gguf,
    write_hf,
)

UP = "model.layers.1.mlp.up_proj.weight"


def floats(tensor: Any) -> Any:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor


@pytest.mark.parametrize("matrix_type", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_a_conversion_gives_the_same_floats_bit_for_bit(tmp_path: Path, matrix_type: str) -> None:
    source = write_gguf(tmp_path / "m.gguf", matrix_type=matrix_type)
    convert(source, tmp_path / "m.bin", progress=False)
    before, after = read_gguf(source), read_tmac2(tmp_path / "m.bin")
    assert (before.config, before.tokenizer_json, before.chat_template) == (after.config, after.tokenizer_json, after.chat_template)
    assert list(before.tensors) == list(after.tensors)
    for name, tensor in before.tensors.items():
        assert same_bits(floats(tensor), floats(after.tensors[name])), name
    assert verify(tmp_path / "m.bin") == []


@pytest.mark.parametrize("other", ["F32", "F16", "BF16", "Q5_1"])
def test_what_cannot_be_stored_as_it_is_is_refused(tmp_path: Path, other: str) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"blk.1.ffn_up.weight": other})
    with pytest.raises(UnsupportedModelError, match=rf"{UP} is {other}, .* round the weights: edgellm quantize SRC --scheme int8"):
        convert(source, tmp_path / "m.bin", progress=False)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {**HF_CONFIG, "rope_scaling": {"rope_type": "llama3"}}}, "m: config key low_freq_factor = None; a number"),
        ({"config": {**HF_CONFIG, "sliding_window": 64}}, "m: config key sliding_window = 64 is unknown"),
        ({"config": {**HF_CONFIG, "eos_token_id": VOCAB}}, f"m: .* eos_token_id = {VOCAB}, which is not among"),
        ({"tokenizer_json": "{}"}, "m: the model's tokenizer.json cannot be read"),
    ],
)
def test_what_would_not_load_is_not_converted(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = write_hf(tmp_path / "m", **changes)
    with pytest.raises((UnsupportedModelError, ModelFileError), match=message):
        convert(source, tmp_path / "m.bin", progress=False)
    assert list(tmp_path.iterdir()) == [source]


def test_norms_are_stored_as_float32(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"output_norm.weight": "F16"})
    convert(source, tmp_path / "m.bin", progress=False)
    norm = read_tmac2(tmp_path / "m.bin").tensors["model.norm.weight"]
    assert same_bits(floats(norm), gguf_weights()["output_norm.weight"].astype(np.float16).astype(np.float32))


def test_the_report_and_the_provenance(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    report = convert(source, tmp_path / "m.bin", progress=False)
    matrices = sum(np.prod(shape) for shape in GGUF_SHAPES.values() if len(shape) == 2)
    vectors = sum(np.prod(shape) for shape in GGUF_SHAPES.values() if len(shape) == 1)
    assert report == ConversionReport(
        source=source,
        destination=tmp_path / "m.bin",
        tensors=len(GGUF_SHAPES),
        source_bytes=int(matrices * 5 / 8 + vectors * 4),
        destination_bytes=(tmp_path / "m.bin").stat().st_size,
        bits_per_weight=float((matrices * 5 + vectors * 32) / (matrices + vectors)),
    )
    provenance = read_tmac2(tmp_path / "m.bin").provenance
    assert (provenance["source"], provenance["format"], provenance["source_sha256"]) == ("m.gguf", "gguf", sha256_of(source))
    assert (provenance["schemes"], provenance["calibration"]) == (["keep"], None)


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    convert(source, tmp_path / "a.bin", progress=False)
    convert(source, tmp_path / "b.bin", progress=True)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_a_source_is_not_written_over(tmp_path: Path) -> None:
    source, folder, link = write_gguf(tmp_path / "m.gguf"), write_hf(tmp_path / "m"), tmp_path / "link"
    link.symlink_to(source)
    for path, destination in [(source, source), (source, link), (link, source), (folder, folder / "model.safetensors")]:
        before = destination.read_bytes()
        with pytest.raises(InvalidRequestError, match=f"{destination.name} is what is to be converted; give the name of another file"):
            convert(path, destination, progress=False)
        assert destination.read_bytes() == before


def test_bad_arguments(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    with pytest.raises(InvalidRequestError, match="is a folder; give the name of a file"):
        convert(source, tmp_path)
    with pytest.raises(FetchError, match="cannot be written"):
        convert(source, source / "m.bin", progress=False)
    with pytest.raises(ModelFileError, match="cannot be read"):
        convert(tmp_path / "none.gguf", tmp_path / "m.bin")
