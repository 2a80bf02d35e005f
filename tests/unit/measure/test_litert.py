"""Graphs of small synthetic models for LiteRT, built and run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.errors import ContextOverflowError, InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.matrix import INT4, INT4_MIN, QuantizedMatrix, Scheme, pack_codes
from edgellm.measure.backends import litert, registry
from edgellm.measure.backends.litert import LiteRTBackend
from edgellm.measure.backends.protocol import BackendUnavailableError
from tests.unit.formats.synthetic import write_gguf
from tests.unit.model.test_decoder import llama
from tests.unit.runtime.synthetic import checkpoint

pytest.importorskip("ai_edge_litert", reason="ai_edge_litert is not installed: pip install 'edgellm[baselines]'")

from edgellm.measure.backends import litert_model
from edgellm.measure.backends.litert_graph import Graph

TOKENS = np.random.default_rng(5).integers(271, size=20).tolist()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def in_floats(given: Checkpoint) -> Checkpoint:
    """The same weights, none of them quantized."""
    tensors: Mapping[str, Tensor] = {
        name: tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor for name, tensor in given.tensors.items()
    }
    return replace(given, tensors=tensors)


def backend_of(given: Checkpoint, folder: Path, context: int = 32, threads: int = 1) -> LiteRTBackend:
    path = folder / "m.tflite"
    with path.open("wb") as file:
        litert_model.build(given, file)
    return LiteRTBackend(path, threads=threads, context=context)


def error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Relative to the expected values' spread."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True, "num_hidden_layers": 1}, {"num_attention_heads": 6, "num_key_value_heads": 1}],
    ids=["grouped heads", "tied head", "one head of keys"],
)
def test_in_floats_the_graph_is_llama(tmp_path: Path, tokenizer_json: str, changes: dict[str, Any]) -> None:
    given = in_floats(checkpoint(tokenizer_json, **changes))
    expected = llama(given, TOKENS)
    backend = backend_of(given, tmp_path, threads=2)
    assert error(backend.logits(TOKENS), expected) < 1e-6
    assert error(backend.prefill(TOKENS), expected[-1]) < 1e-6


def test_with_quantized_matrices_it_stays_near(tmp_path: Path, tokenizer_json: str) -> None:
    """Activations are rounded to int8: with every matrix kept but the head, a percent or so."""
    given = checkpoint(tokenizer_json)
    assert 1e-4 < error(backend_of(given, tmp_path).logits(TOKENS), llama(given, TOKENS)) < 0.03


def test_chunks_steps_and_padded_keys_change_nothing(tmp_path: Path, tokenizer_json: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts in chunks, tokens one by one over the edge of the padded keys, and a text after another."""
    backend = backend_of(in_floats(checkpoint(tokenizer_json)), tmp_path)
    at_once = backend.logits(TOKENS)
    monkeypatch.setattr(litert, "CHUNK", 7)
    monkeypatch.setattr(litert, "KEYS", 4)
    assert error(backend.logits(TOKENS), at_once) < 1e-6
    for start in (9, 4):
        backend.logits(TOKENS[::-1])
        steps = [backend.prefill(TOKENS[:start]), *(backend.decode(token) for token in TOKENS[start:])]
        assert error(np.array(steps), at_once[start - 1 :]) < 1e-6


@pytest.mark.parametrize("scheme", [INT4, INT4_MIN, Scheme("int4", 64)], ids=str)
def test_four_bits_are_kept_whatever_the_sign_of_the_scale(scheme: Scheme) -> None:
    rng = np.random.default_rng(0)
    scales = rng.normal(size=(8, 192 // int(scheme.group))).astype(np.float16)
    scales[0, 0] = 0
    minimums = rng.normal(size=scales.shape).astype(np.float16) if scheme.has_min else None
    codes = pack_codes(scheme, rng.integers(0, 16, (1, 8, 192)))
    given = QuantizedMatrix(scheme, codes, scales, minimums)
    packed, positive, offsets = litert_model._levels(given)
    levels = np.stack([packed & 15, packed >> 4], axis=2).reshape(8, scales.shape[1], -1).astype(np.int32)
    levels -= 16 * (levels > 7)
    assert (positive > 0).all()
    found = levels * positive[:, :, None].astype(np.float64) + offsets[:, :, None]
    np.testing.assert_allclose(found.reshape(8, 192), given.dequantize(np.float64), rtol=0, atol=1e-6)


def test_it_is_loaded_by_name_or_as_built_and_says_what_it_did(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"token_embd.weight": "Q8_0"})
    backend: Any = registry.load("litert", str(source), threads=2, context=16)
    assert backend.count_tokens("abc a") == 2
    assert len(list(backend.generate("abc a", 5))) == 5
    again: Any = registry.load("litert", str(litert.built(source)), threads=1, context=16)
    assert list(again.generate("abc a", 5)) == list(backend.generate("abc a", 5))
    description = backend.description()
    assert description["backend_version"].startswith("ai-edge-litert ")
    assert description["settings"]["weights"] == {"int4-min-g32": litert_model.KEPT_INT4, "int8-g32": litert_model.REQUANTIZED}
    assert backend.threads == 2
    backend.unload()
    assert capfd.readouterr().err == ""


def test_a_model_is_built_once_and_anew_when_its_source_changes(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"token_embd.weight": "Q8_0"})
    built = litert.built(source)
    time = built.stat().st_mtime_ns
    assert litert.built(source) == built
    assert built.stat().st_mtime_ns == time
    write_gguf(source, types={"token_embd.weight": "Q8_0", "blk.0.ffn_up.weight": "Q4_0"})
    assert litert.built(source) != built


def test_a_scheme_without_a_counterpart_is_refused_and_nothing_is_left(
    tmp_path: Path, cache: Path, tokenizer_json: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ternary = QuantizedMatrix(Scheme.parse("ternary-row"), np.zeros((96, 13), np.uint8), np.ones((96, 1), np.float16))
    given = checkpoint(tokenizer_json)
    given = replace(given, tensors={**given.tensors, "model.layers.1.mlp.up_proj.weight": ternary})
    monkeypatch.setattr(litert, "open_checkpoint", lambda path: given)
    source = write_gguf(tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModelError, match=r"ternary-row has no counterpart in LiteRT; it has int8, and int4"):
        litert.built(source)
    assert list(cache.iterdir()) == []


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Graph, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        litert.built(write_gguf(tmp_path / "m.gguf"))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 7, 1000, 0.5, 0.999], ids=str)
def test_a_part_of_a_built_file_is_refused(tmp_path: Path, keep: float) -> None:
    whole = litert.built(write_gguf(tmp_path / "m.gguf")).read_bytes()
    part = tmp_path / "part.tflite"
    part.write_bytes(whole[: int(keep * len(whole) if keep < 1 else keep)])
    with pytest.raises(ModelFileError, match=r"part\.tflite: no whole TensorFlow Lite model"):
        registry.load("litert", str(part), threads=1, context=16)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent\.tflite: cannot be read: No such file"):
        registry.load("litert", str(tmp_path / "absent.tflite"), threads=1, context=16)
    foreign = tmp_path / "foreign.tflite"
    with foreign.open("wb") as file:
        Graph().write(file, {}, {"min_runtime_version": b"1.5.0"})
    with pytest.raises(ModelFileError, match=r"foreign\.tflite: this TensorFlow Lite model was not built here"):
        registry.load("litert", str(foreign), threads=1, context=16)


def test_what_cannot_be_run_is_refused(tmp_path: Path, tokenizer_json: str) -> None:
    backend = backend_of(checkpoint(tokenizer_json), tmp_path, context=4)
    with pytest.raises(InvalidRequestError, match="there are no tokens to run"):
        backend.prefill([])
    with pytest.raises(ContextOverflowError, match="the context of 4 tokens cannot hold 5"):
        backend.prefill([1, 2, 3, 4, 5])
    backend.prefill([1, 2, 3, 4])
    with pytest.raises(ContextOverflowError, match="the context of 4 tokens cannot hold 5"):
        backend.decode(5)
    with pytest.raises(InvalidRequestError, match="ids from 271 to 271 are not within the vocabulary of 271"):
        backend.prefill([271])
    with pytest.raises(InvalidRequestError, match="takes no URL"):
        registry.load("litert=http://x", "m", threads=1, context=8)


def test_litert_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(BackendUnavailableError, match=r"litert is not available.*pip install 'edgellm\[baselines\]'"):
        registry.load("litert", "m.gguf", threads=1, context=8)
