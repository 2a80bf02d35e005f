"""Whole models quantized by GPTQ: calibration texts, the stream of hidden states, interruptions, and what is recorded."""

from __future__ import annotations

import errno
import fcntl
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.errors import EdgeLLMError, FetchError, InvalidRequestError, ModelFileError
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tmac2 import read_tmac2, verify
from edgellm.model.config import ModelConfig
from edgellm.ops.dense import DenseMatrix
from edgellm.ops.reference import Reference
from edgellm.quantize import layerwise
from edgellm.quantize.calibrate import CalibrationText, calibration_texts, sequences
from edgellm.quantize.gptq import Rounded, gptq
from edgellm.quantize.quantize import Recipe, quantize
from edgellm.quantize.stream import SINK_WEIGHT, SINKS, Stream
from edgellm.runtime.engine import Engine
from edgellm.runtime.weights import layer_weights
from tests.unit.formats.synthetic import HF_CONFIG, LAYERS, hf_weights, write_hf

GPTQ = Recipe.named("int3-min", method="gptq")
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "m")


def floats(tensor: Any) -> Any:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor


def logits(path: Path, tokens: list[int]) -> Any:
    return Engine(path, threads=1, make_ops=lambda isa, pool: Reference()).logits(tokens)


def test_a_model_is_nearer_to_its_source_than_rounded_to_nearest(source: Path, text: Path, tmp_path: Path) -> None:
    for name, recipe, calibration in (("rtn", Recipe.named("int3-min"), []), ("gptq", GPTQ, [text]), ("int8", Recipe.named("int8"), [])):
        quantize(source, tmp_path / f"{name}.bin", recipe, progress=False, calibration=calibration)
    assert verify(tmp_path / "gptq.bin") == []
    tokens = np.random.default_rng(1).choice([3, 4, 5, 6, 7, 8, 9, 10, 11], 60).tolist()
    expected, ours, theirs = (logits(tmp_path / f"{name}.bin", tokens) for name in ("int8", "gptq", "rtn"))
    assert ((ours - expected) ** 2).mean() < 0.8 * ((theirs - expected) ** 2).mean()


def test_what_is_recorded(source: Path, text: Path, tmp_path: Path) -> None:
    made = quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    provenance = read_tmac2(tmp_path / "m.bin").provenance
    assert {name: part.output_error for name, part in made.tensors.items() if part.output_error is not None} == provenance["output_error"]
    assert provenance["calibration"] == [{"name": "text.txt", "sha256": calibration_texts([text])[0].sha256}]
    assert (provenance["method"], provenance["schemes"]) == ("gptq", ["int3-min-g64 by gptq"])
    matrices = [name for name, weights in hf_weights().items() if weights.ndim == 2 and name != "model.embed_tokens.weight"]
    assert sorted(provenance["output_error"]) == sorted(matrices)
    assert all(0 < error < 0.2 for error in provenance["output_error"].values())
    assert {file.name for file in tmp_path.iterdir()} == {"m", "m.bin", "text.txt"}


@pytest.mark.parametrize(
    ("error", "matrices"), [(KeyboardInterrupt(), 0), (KeyboardInterrupt(), 8), (OSError(errno.ENOSPC, "No space left on device"), 13)]
)
def test_an_interrupted_one_goes_on_and_gives_the_same_bytes(
    error: BaseException, matrices: int, source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(source, tmp_path / "whole.bin", GPTQ, progress=False, calibration=[text])
    calls: Iterator[int] = itertools.count()

    def stopping(*arguments: Any) -> Rounded:
        if next(calls) == matrices:
            raise error
        return gptq(*arguments)

    monkeypatch.setattr(layerwise, "gptq", stopping)
    with pytest.raises((type(error), FetchError)):
        quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    assert not (tmp_path / "m.bin").exists()
    done = {file.name for file in (tmp_path / "m.bin.partial").glob("layer-*.npz")}
    assert done == ({"layer-0.npz"} if matrices >= 7 else set())
    quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    assert next(calls) == matrices + 1 + 7 * (LAYERS - len(done))
    assert (tmp_path / "m.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert not (tmp_path / "m.bin.partial").exists()


@pytest.fixture
def interrupted(source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A partial folder with one layer."""
    with monkeypatch.context() as patch:
        patch.setattr(layerwise, "output_error", lambda *_: 1 / 0 if (tmp_path / "m.bin.partial/layer-0.npz").exists() else (0, 1))
        with pytest.raises(ZeroDivisionError):
            quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    return tmp_path / "m.bin.partial"


def test_what_another_recipe_left_is_not_used(interrupted: Path, source: Path, text: Path, tmp_path: Path) -> None:
    recipe = Recipe.named("int4-min", method="gptq")
    quantize(source, tmp_path / "m.bin", recipe, progress=False, calibration=[text])
    quantize(source, tmp_path / "new.bin", recipe, progress=False, calibration=[text])
    assert (tmp_path / "m.bin").read_bytes() == (tmp_path / "new.bin").read_bytes()
    assert not interrupted.exists()


def test_a_damaged_partial_folder_is_named(interrupted: Path, source: Path, text: Path, tmp_path: Path) -> None:
    (interrupted / "layer-0.npz").write_bytes((interrupted / "layer-0.npz").read_bytes()[:500])
    with pytest.raises(ModelFileError, match=f"layer-0.npz is damaged: .*; remove the folder {interrupted} and quantize again"):
        quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])


def test_a_second_one_of_the_same_output_is_refused(interrupted: Path, source: Path, text: Path, tmp_path: Path) -> None:
    with (interrupted / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequestError, match="m.bin is being made by another process"):
            quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    assert (interrupted / "layer-0.npz").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t.txt is empty"),
        (b" \n\t", "t.txt is empty"),
        (b"\x80abc", "t.txt is no calibration text: it is not UTF-8"),
        (b"GGUF\0\0\0", "t.txt is no calibration text: it holds zero bytes"),
        (b"abc", "t.txt has 1 tokens; at least 64 are needed"),
    ],
)
def test_calibration_files_that_are_no_text_are_refused(content: bytes, message: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(InvalidRequestError, match=message):
        quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[tmp_path / "t.txt"])
    assert not (tmp_path / "m.bin").exists()


@pytest.mark.parametrize(
    "content", [None, b"", b"no gzip", gzip.compress(b"abc", mtime=0)[:-5]], ids=["missing", "empty", "no gzip", "cut off"]
)
def test_calibration_files_that_cannot_be_read_are_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "t.gz").write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"calibration text .*t.gz (cannot be read|is empty)"):
        calibration_texts([tmp_path / "t.gz"])


def test_rounding_to_nearest_refuses_a_calibration_text(source: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeLLMError, match="rounding to nearest looks at no calibration text"):
        quantize(source, tmp_path / "m.bin", Recipe.named("int4"), progress=False, calibration=[text])


def test_texts_that_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that are given; those of the data folder; what every CPython carries."""
    monkeypatch.delenv("EDGELLM_DATA", raising=False)
    (carried,) = calibration_texts()
    assert (carried.name, len(carried.text) > 100_000) == ("pydoc_data.topics", True)
    (tmp_path / "calibration_mixed.txt.gz").write_bytes(gzip.compress("ä text".encode()))
    monkeypatch.setenv("EDGELLM_DATA", str(tmp_path))
    assert calibration_texts() == [CalibrationText("calibration_mixed.txt.gz", "ä text")]
    (tmp_path / "own.txt").write_text("own")
    assert [text.name for text in calibration_texts([tmp_path / "own.txt"])] == ["own.txt"]


def test_sequences_are_spread_over_all_texts_and_half_of_them_begin_with_bos() -> None:
    texts = [CalibrationText("a", "x" * 1000), CalibrationText("b", "y" * 130)]

    def encode(text: str) -> list[int]:
        return [i + (1000 if text[0] == "y" else 0) for i in range(len(text))]

    found = sequences(texts, encode, 7, count=6, length=100)
    assert found.dtype == np.int32
    assert found[:, 0].tolist() == [7, 450, 7, 1000]
    assert found[:, 50].tolist() == [49, 500, 949, 1050]
    assert sequences(texts, encode, None, count=6, length=100)[:, 0].tolist() == [0, 450, 900, 1000]
    assert sequences(texts, encode, 7, count=4, length=500).shape == (3, 130)


def test_the_stream_is_the_forward_pass_and_its_inputs_are_what_matrices_meet() -> None:
    """By the equations, for one layer without attention to others: sequences of one token."""
    config = ModelConfig.from_hf(HF_CONFIG)
    weights = hf_weights()
    layer = layer_weights(config, 0, lambda name: DenseMatrix(weights[name]), lambda name: weights[name])
    embedding = weights["model.embed_tokens.weight"]
    stream = Stream(config, np.arange(5, dtype=np.int32)[:, None], embedding, 1, "float32")

    def normed(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + config.rms_norm_eps) * weights[f"model.layers.0.{name}.weight"]

    def times(x: Any, name: str) -> Any:
        return x @ weights[f"model.layers.0.{name}.weight"].T

    x = normed(embedding[:5], "input_layernorm")
    sinks = normed(stream.sinks, "input_layernorm")
    assert sinks.shape == (SINKS, 64)
    first, second = stream.inputs(0, "attention", layer)
    assert (first.readers, second.readers) == (("q_proj", "k_proj", "v_proj"), ("o_proj",))
    np.testing.assert_allclose(first.hessian, x.T @ x / 5 + SINK_WEIGHT * sinks.T @ sinks / SINKS, rtol=1e-4, atol=1e-4)
    mixed = np.tile(times(x, "self_attn.v_proj"), 2)
    np.testing.assert_allclose(second.hessian, mixed.T @ mixed / 5, rtol=1e-4, atol=1e-3)

    stream.advance(0, "attention", layer)
    hidden = embedding[:5] + times(mixed, "self_attn.o_proj")
    np.testing.assert_allclose(stream.hidden[:, 0], hidden, rtol=1e-4, atol=1e-3)
    third, fourth = stream.inputs(0, "feed_forward", layer)
    assert (third.readers, fourth.readers) == (("gate_proj", "up_proj"), ("down_proj",))
    x = normed(hidden, "post_attention_layernorm")
    gate = times(x, "mlp.gate_proj")
    gated = gate / (1 + np.exp(-gate)) * times(x, "mlp.up_proj")
    np.testing.assert_allclose(fourth.hessian, gated.T @ gated / 5, rtol=1e-3, atol=1)
    before = stream.sinks.copy()
    stream.advance(0, "feed_forward", layer)
    np.testing.assert_allclose(stream.hidden[:, 0], hidden + times(gated, "mlp.down_proj"), rtol=1e-3, atol=0.1)
    assert not np.array_equal(stream.sinks, before)


def test_it_runs(source: Path, text: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "m.bin", Recipe.named("ternary", "int4", "int8-token", "gptq"), progress=True, calibration=[text])
    assert list(edgellm.load(tmp_path / "m.bin", threads=1).generate([3, 4], max_tokens=3))
