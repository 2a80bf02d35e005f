from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.checkpoint import ACTIVATIONS, Checkpoint, Tensor
from edgellm.formats.matrix import INT4, INT8, QuantizedMatrix, Scheme
from edgellm.formats.tensors import LazyTensors, TensorSpec, take_rows
from edgellm.formats.tmac2 import read_tmac2, verify, write_tmac2
from tests.kernels.data import SCHEMES
from tests.unit.formats.synthetic import HF_CONFIG, TEMPLATE, edit_safetensors_header, hf_weights, same_bits, seal

FORMS = tuple(sorted(SCHEMES, key=lambda scheme: scheme != INT4))
"""The embedding's first."""
EMBEDDING = "model.embed_tokens.weight"
UP = "model.layers.0.mlp.up_proj.weight"


def quantized(scheme: Scheme, shape: tuple[int, int], seed: int) -> QuantizedMatrix:
    rng = np.random.default_rng(seed)
    largest = 243 if scheme.is_trits else 256  # 3^5 patterns of trits
    codes = rng.integers(0, largest, (shape[0], scheme.code_bytes(shape[1]))).astype(np.uint8)
    scales, minimums = rng.standard_normal((2, *scheme.scales_shape(*shape))).astype(np.float16)
    return QuantizedMatrix(scheme, codes.view(np.int8) if scheme.family == "int8" else codes, scales, minimums if scheme.has_min else None)


def synthetic_checkpoint() -> Checkpoint:
    """Every form of tensor that the file can hold."""
    forms = iter(FORMS)
    tensors: dict[str, Tensor] = {
        name: quantized(next(forms), weights.shape, i) if weights.ndim == 2 else weights.astype(np.float16 if i % 2 else np.float32)
        for i, (name, weights) in enumerate(hf_weights().items())
    }
    assert next(forms, None) is None, "a scheme was left out"
    return Checkpoint(HF_CONFIG, tensors, '{"model": "Ġ \\" 木"}', TEMPLATE, {"source": "s", "source_sha256": "0" * 64, "format": "gguf"})


@pytest.fixture
def checkpoint() -> Checkpoint:
    return synthetic_checkpoint()


@pytest.fixture
def model_file(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    path = tmp_path / "m.tmac2.bin"
    write_tmac2(path, checkpoint)
    return path


def arrays(tensor: Tensor) -> list[Any]:
    return [tensor.codes, tensor.scales, tensor.minimums] if isinstance(tensor, QuantizedMatrix) else [tensor]


def test_what_is_written_is_read(model_file: Path, checkpoint: Checkpoint) -> None:
    read = read_tmac2(model_file)
    assert replace(read, tensors={}) == replace(checkpoint, tensors={})
    assert list(read.tensors) == list(checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        for stored, array in zip(arrays(read.tensors[name]), arrays(tensor), strict=True):
            assert (stored is array is None) or same_bits(stored, array)


def test_without_a_chat_template(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_tmac2(tmp_path / "m", replace(checkpoint, chat_template=None))
    assert read_tmac2(tmp_path / "m").chat_template is None


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_activations_are_recorded(activations: str, tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_tmac2(tmp_path / "m", replace(checkpoint, activations=activations))
    assert read_tmac2(tmp_path / "m").activations == activations


def test_a_file_from_before_there_was_a_choice_of_activations(model_file: Path) -> None:
    edit_safetensors_header(model_file, set_metadata("activations", None))
    assert read_tmac2(model_file).activations == "int8-g32"


def test_provenance_may_be_completed_while_tensors_are_read(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.provenance["found"] = 99999

    def find(value: int) -> LazyTensors:
        def read(name: str, rows: slice) -> Tensor:
            checkpoint.provenance["found"] = value
            return take_rows(checkpoint.tensors[name], rows)

        return LazyTensors({name: TensorSpec.of(tensor) for name, tensor in checkpoint.tensors.items()}, read)

    path = tmp_path / "m"
    write_tmac2(path, replace(checkpoint, tensors=find(7)))
    assert read_tmac2(path).provenance["found"] == 7
    assert verify(path) == []
    with pytest.raises(ValueError, match="the header has outgrown its .* bytes"):
        write_tmac2(path, replace(checkpoint, tensors=find(10**70)))
    assert read_tmac2(path).provenance["found"] == 7


def test_the_safetensors_library_reads_it(model_file: Path, checkpoint: Checkpoint) -> None:
    loaded = load_file(model_file)
    matrix, norm = checkpoint.tensors[EMBEDDING], checkpoint.tensors["model.norm.weight"]
    assert isinstance(matrix, QuantizedMatrix)
    assert isinstance(norm, np.ndarray)
    assert same_bits(loaded[f"{EMBEDDING}.codes"], matrix.codes)
    assert same_bits(loaded[f"{EMBEDDING}.scales"], matrix.scales)
    assert same_bits(loaded["model.norm.weight"], norm)
    padding = [array for name, array in loaded.items() if name.startswith("padding.")]
    assert padding
    assert not any(array.any() for array in padding)
    with safe_open(model_file, "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["schemes"])[UP] == str(checkpoint.tensors[UP].scheme)  # type: ignore[union-attr]
    assert metadata["tokenizer.json"] == checkpoint.tokenizer_json


def test_every_tensor_starts_on_a_64_byte_boundary(model_file: Path) -> None:
    raw = model_file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + length])
    starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in entries.items() if name != "__metadata__"}
    assert {name for name, start in starts.items() if start % 64} == {name for name in starts if name.startswith("padding.")}


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, model_file: Path, checkpoint: Checkpoint) -> None:
    other = tmp_path / "elsewhere" / "other.bin"
    other.parent.mkdir()
    write_tmac2(other, checkpoint)
    assert other.read_bytes() == model_file.read_bytes()
    write_tmac2(other, read_tmac2(model_file))
    assert other.read_bytes() == model_file.read_bytes()


def test_how_many_rows_are_written_together_changes_no_byte(
    tmp_path: Path, model_file: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgellm.formats.tensors.WEIGHTS_AT_ONCE", 1)
    write_tmac2(tmp_path / "m", checkpoint)
    assert (tmp_path / "m").read_bytes() == model_file.read_bytes()


class Failing(Mapping[str, Tensor]):
    """Tensors of which the last one raises."""

    def __init__(self, tensors: Mapping[str, Tensor], error: BaseException) -> None:
        self.tensors, self.error = tensors, error

    def __getitem__(self, name: str) -> Tensor:
        if name == "model.norm.weight":
            raise self.error
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelFileError("broken"), MemoryError()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(model_file: Path, checkpoint: Checkpoint, error: BaseException) -> None:
    before = model_file.read_bytes()
    specs = {name: TensorSpec.of(tensor) for name, tensor in checkpoint.tensors.items()}
    failing = Failing(checkpoint.tensors, error)
    tensors = LazyTensors(specs, lambda name, rows: take_rows(failing[name], rows))
    with pytest.raises(type(error)):
        write_tmac2(model_file, replace(checkpoint, tensors=tensors))
    assert model_file.read_bytes() == before
    assert list(model_file.parent.iterdir()) == [model_file]


@pytest.mark.parametrize("announced", [{"shape": (65,)}, {"form": "float32"}])
def test_a_tensor_that_is_not_as_announced_is_refused(tmp_path: Path, checkpoint: Checkpoint, announced: dict[str, Any]) -> None:
    specs = {name: TensorSpec.of(tensor) for name, tensor in checkpoint.tensors.items()}
    specs["model.norm.weight"] = replace(specs["model.norm.weight"], **announced)
    tensors = LazyTensors(specs, lambda name, rows: take_rows(checkpoint.tensors[name], rows))
    with pytest.raises(ModelFileError, match=r"model\.norm\.weight came as float16 \(64,\); announced was"):
        write_tmac2(tmp_path / "m", replace(checkpoint, tensors=tensors))


def set_metadata(key: str, value: str | None) -> Any:
    def edit(header: dict[str, Any]) -> None:
        header["__metadata__"][key] = value
        if value is None:
            del header["__metadata__"][key]

    return edit


def set_json(key: str, **changes: Any) -> Any:
    """Change or, with None, remove entries of a JSON object in the metadata."""

    def edit(header: dict[str, Any]) -> None:
        value = {**json.loads(header["__metadata__"][key]), **changes}
        header["__metadata__"][key] = json.dumps({k: v for k, v in value.items() if v is not None})

    return edit


def set_entry(name: str, **changes: Any) -> Any:
    return lambda header: header[name].update(changes)


def rename(old: str, new: str) -> Any:
    def edit(header: dict[str, Any]) -> None:
        header[new] = header.pop(old)

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (set_metadata("format", "pt"), ModelFileError, "not a .tmac2.bin"),
        (set_metadata("format_version", "2"), UnsupportedModelError, "format version '2' is not read; this version reads '1'"),
        (set_metadata("header_checksum", None), ModelFileError, "'header_checksum' is missing"),
        (set_metadata("config", None), ModelFileError, "'config' is missing"),
        (set_metadata("config", "["), ModelFileError, "'config' is not JSON"),
        (set_metadata("config", "[" * 100_000), ModelFileError, "'config' is not JSON"),
        (set_metadata("config", "[]"), ModelFileError, "'config' is not a JSON object"),
        (set_metadata("tokenizer.json", None), ModelFileError, "'tokenizer.json' is missing"),
        (set_metadata("provenance", "7"), ModelFileError, "'provenance' is not a JSON object"),
        (
            set_metadata("activations", "fp8"),
            UnsupportedModelError,
            "'fp8' are not implemented; .*: int8-g32, int8-token",
        ),
        (set_json("config", model_type="mamba"), UnsupportedModelError, "config key model_type = 'mamba' is not implemented"),
        (set_json("config", hidden_size=None), ModelFileError, "'hidden_size' is None"),
        (set_json("config", num_hidden_layers=10**9), ModelFileError, "model.layers.2.input_layernorm.weight is missing"),
        (set_json("config", num_hidden_layers=1), UnsupportedModelError, "model.layers.1.input_layernorm.weight is not part"),
        (
            set_json("config", intermediate_size=32),
            ModelFileError,
            r"gate_proj.weight has shape \(96, 64\); the config asks for \(32, 64\)",
        ),
        (set_json("schemes", **{UP: "int3-g7"}), UnsupportedModelError, "'int3-g7' is unknown; a scheme is FAMILY"),
        (set_json("schemes", **{UP: ["int8-g32"]}), UnsupportedModelError, "is unknown"),
        (set_json("schemes", **{UP: "float32"}), ModelFileError, f"{UP} .float32. is missing"),
        (set_json("schemes", **{UP: None}), ModelFileError, f"{UP} is missing"),
        (set_json("schemes", **{EMBEDDING: "int4-min-g32"}), ModelFileError, f"{EMBEDDING}.minimums is missing"),
        (set_json("schemes", **{EMBEDDING: "int8-g32"}), ModelFileError, f"{EMBEDDING} has shape"),
        (set_entry(f"{EMBEDDING}.codes", dtype="I8"), ModelFileError, f"{EMBEDDING}.codes is I8"),
        (set_entry(f"{EMBEDDING}.codes", shape=[12 * 32]), ModelFileError, f"{EMBEDDING} .* misshapen"),
        (set_entry(f"{EMBEDDING}.scales", dtype="BF16"), ModelFileError, f"{EMBEDDING}.scales is BF16"),
        (set_entry(f"{EMBEDDING}.codes", shape=[1 << 62, 4]), ModelFileError, "not a readable safetensors file"),
        (set_entry(f"{EMBEDDING}.codes", data_offsets=[64, 448]), ModelFileError, "not a readable safetensors file"),
        (rename(f"{EMBEDDING}.scales", "stray"), ModelFileError, f"{EMBEDDING}.scales is missing"),
        (rename("padding.0", "stray"), ModelFileError, "stray is part of no tensor"),
        (set_entry("padding.0", dtype="I8"), ModelFileError, "padding.0 is part of no tensor"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(model_file: Path, edit: Any, error: type[Exception], message: str) -> None:
    edit_safetensors_header(model_file, edit)
    with pytest.raises(error, match=message) as caught:
        read_tmac2(model_file)
    assert str(model_file) in str(caught.value)


def test_rows_that_are_not_whole_groups_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    ragged = {
        f"model.layers.{i}.mlp.{name}_proj.weight": (64, 80) if name == "down" else (80, 64)
        for i in (0, 1)
        for name in ("gate", "up", "down")
    }
    tensors = {**checkpoint.tensors, **{name: quantized(INT8, shape, 0) for name, shape in ragged.items()}}
    write_tmac2(tmp_path / "m", replace(checkpoint, config={**HF_CONFIG, "intermediate_size": 80}, tensors=tensors))
    with pytest.raises(ModelFileError, match=r"down_proj\.weight \(int8-g32\) has rows of 80 bytes of codes, which is no multiple of 32"):
        read_tmac2(tmp_path / "m")


def test_a_tensor_off_its_boundary_is_refused(model_file: Path) -> None:
    raw = model_file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    model_file.write_bytes(seal((length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :]))
    with pytest.raises(ModelFileError, match="not on a multiple of 64"):
        read_tmac2(model_file)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, (1 << 62).to_bytes(8, "little") + b"{}"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.tmac2.bin"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        read_tmac2(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ModelFileError, match="not a readable safetensors file"):
            read_tmac2(path)


def test_text_that_is_not_unicode_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelFileError, match="is not Unicode text"):
        write_tmac2(tmp_path / "m", replace(checkpoint, chat_template="\ud800"))
    assert list(tmp_path.iterdir()) == []


def test_verify_passes_what_was_written(model_file: Path) -> None:
    assert verify(model_file) == []


def test_verify_names_the_damaged_tensor(model_file: Path) -> None:
    raw = bytearray(model_file.read_bytes())
    raw[-1] ^= 1
    model_file.write_bytes(raw)
    assert verify(model_file) == ["tensor model.norm.weight does not match its checksum"]


def test_a_header_that_was_changed_is_refused(model_file: Path) -> None:
    edit_safetensors_header(model_file, set_json("config", rms_norm_eps=0.1), sealed=False)
    for use in (read_tmac2, verify):
        with pytest.raises(ModelFileError, match=r"m\.tmac2\.bin: the header does not match its checksum"):
            use(model_file)


def test_verify_notices_a_flip_of_any_byte(tmp_path: Path, model_file: Path) -> None:
    raw = model_file.read_bytes()
    path = tmp_path / "flipped"
    for position in range(0, len(raw), 131):
        flipped = bytearray(raw)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            problems = verify(path)
        except (ModelFileError, UnsupportedModelError):
            continue
        assert problems, f"the flip of bit {position % 8} of byte {position} went unnoticed"
