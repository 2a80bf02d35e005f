from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm.errors import ModelFileError
from edgellm.formats import format_of, open_checkpoint
from edgellm.formats.digest import sha256_of
from edgellm.formats.inspect import describe
from edgellm.quantize.convert import convert
from tests.unit.formats.synthetic import GGUF_SHAPES, HF_CONFIG, VOCAB, write_gguf, write_hf


def write_tmac2(path: Path) -> Path:
    source = write_gguf(path.with_name("source.gguf"))
    convert(source, path, progress=False)
    return path


@pytest.mark.parametrize(("write", "expected"), [(write_gguf, "gguf"), (write_hf, "huggingface"), (write_tmac2, "tmac2")])
def test_a_format_is_told_by_content_and_not_by_name(tmp_path: Path, write: object, expected: str) -> None:
    path = write(tmp_path / "model.txt")  # type: ignore[operator]
    assert format_of(path) == expected
    assert open_checkpoint(path).config == HF_CONFIG


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"PK\3\4 a zip archive", r"starts with b'PK\\x03\\x04'; a model is a GGUF file"), (b"{}", "starts with b'{}'")],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(tmp_path / "f")


def test_a_missing_file_and_another_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="none: cannot be read: No such file"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(ModelFileError, match=r"a folder without config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("write", "source_type"), [(write_gguf, "Q4_1"), (write_tmac2, "int4-min-g32")])
def test_a_description_tells_what_the_file_holds(tmp_path: Path, write: object, source_type: str) -> None:
    path = write(tmp_path / "m")  # type: ignore[operator]
    description = describe(path)
    assert json.loads(json.dumps(description)) == description
    assert description["config"] == HF_CONFIG
    assert description["context_length"] == HF_CONFIG["max_position_embeddings"]
    assert description["tensor_count"] == len(description["tensors"]) == len(GGUF_SHAPES)
    matrices, vectors = description["schemes"]["int4-min-g32"], description["schemes"]["float32"]
    assert matrices["bits_per_weight"] == 5
    assert vectors["bits_per_weight"] == 32
    assert description["bits_per_weight"] == (5 * matrices["weights"] + 32 * vectors["weights"]) / description["weights"]
    assert description["tensors"][0] == {
        "name": "model.embed_tokens.weight",
        "shape": [VOCAB, 64],
        "scheme": "int4-min-g32",
        "source_type": source_type,
        "bytes": VOCAB * 64 * 5 // 8,
    }
    source = path if write is write_gguf else tmp_path / "source.gguf"
    assert description["provenance"]["source_sha256"] == sha256_of(source)


def test_a_folders_digest_changes_with_any_of_its_files(tmp_path: Path) -> None:
    before = sha256_of(write_hf(tmp_path))
    (tmp_path / "notes.md").write_text("not part of the model")
    assert sha256_of(tmp_path) == before
    (tmp_path / "tokenizer.json").write_text("{}")
    assert sha256_of(tmp_path) != before
    with pytest.raises(ModelFileError, match="cannot be read"):
        sha256_of(tmp_path / "none")
