"""Graphs of small synthetic models, built and run; the real one is in tests/e2e/test_onnxruntime.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import ContextOverflowError, InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.formats import open_checkpoint
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.measure.backends import onnx_model, registry
from edgellm.measure.backends.onnx_graph import Graph
from edgellm.measure.backends.onnxruntime import OnnxRuntimeBackend
from edgellm.measure.backends.protocol import BackendUnavailableError
from edgellm.ops import reference
from edgellm.quantize.convert import convert
from edgellm.runtime.engine import Engine
from tests.unit.formats.synthetic import GGUF_SHAPES, HIDDEN, VOCAB, write_gguf

for name in ("onnx", "onnxruntime"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'edgellm[baselines]'")

IDS = [3, 4, 7, 1, 0, 11, 5]
EMBEDDING = "token_embd.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf", types={EMBEDDING: "Q8_0"})


@pytest.fixture
def backend(source: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(onnx_model.cached_model(source), threads=1, context=16)


def exact_engine(source: Path) -> Engine:
    """The NumPy ops with float32 activations and cache."""
    return Engine(
        source,
        threads=1,
        context=16,
        kv_dtype="f32",
        make_ops=lambda isa, pool: reference.Reference(quantize_activations=False),
        keep_exact_activations=True,
    )


@pytest.mark.parametrize("embedding", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("matrices", ["Q4_0", "Q4_1", "Q8_0"])
def test_with_float_activations_the_logits_are_those_of_the_same_weights(tmp_path: Path, matrices: str, embedding: str) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={EMBEDDING: embedding}, matrix_type=matrices)
    graph = onnx_model.build(source, tmp_path / "m.onnx", onnx_model.FLOAT_ACTIVATIONS)
    expected = exact_engine(source).logits(IDS)
    found = OnnxRuntimeBackend(graph, threads=2, context=16)
    np.testing.assert_allclose(found.logits(IDS), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found.prefill(IDS), expected[-1], rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_head_of_its_own(tmp_path: Path) -> None:
    """SmolLM2's is tied."""
    head = np.random.default_rng(1).standard_normal((VOCAB, HIDDEN), np.float32)
    source = write_gguf(tmp_path / "m.gguf", tensors={"output.weight": head}, types={EMBEDDING: "Q8_0"})
    graph = onnx_model.build(source, tmp_path / "m.onnx", onnx_model.FLOAT_ACTIVATIONS)
    expected = exact_engine(source).logits(IDS)
    np.testing.assert_allclose(
        OnnxRuntimeBackend(graph, threads=1, context=16).logits(IDS), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_int8_activations_stay_as_near_as_the_engines(source: Path, backend: OnnxRuntimeBackend) -> None:
    expected = exact_engine(source).logits(IDS)
    ours, theirs = (np.std(logits - expected) for logits in (Engine(source, threads=1, context=16).logits(IDS), backend.logits(IDS)))
    assert 0 < theirs < 2 * ours


def test_tokens_one_by_one_and_a_text_after_another(tmp_path: Path, source: Path) -> None:
    backend = OnnxRuntimeBackend(onnx_model.build(source, tmp_path / "m.onnx", onnx_model.FLOAT_ACTIVATIONS), threads=1, context=16)
    at_once = backend.logits(IDS)
    assert not np.array_equal(backend.logits(IDS[::-1]), at_once), "what was given before was overwritten"
    for _ in range(2):
        one_by_one = [backend.prefill(IDS[:2]).copy(), *(backend.decode(token).copy() for token in IDS[2:])]
        np.testing.assert_allclose(one_by_one, at_once[1:], rtol=0, atol=1e-5 * np.abs(at_once).max())


def test_text_goes_on_greedily(backend: OnnxRuntimeBackend) -> None:
    assert backend.count_tokens("abc a") == 2
    assert list(backend.generate("abc a", 5)) == list(backend.generate("abc a", 5))
    assert len(list(backend.generate("abc a", 5))) == 5


def test_it_is_loaded_by_name_and_says_what_it_is(source: Path) -> None:
    backend: Any = registry.load("onnxruntime", str(source), threads=2, context=16)
    description = backend.description()
    backend.unload()
    assert description["backend_version"].startswith("onnxruntime 1.")
    assert description["model_n_params"] == sum(int(np.prod(shape)) for shape in GGUF_SHAPES.values())
    assert description["settings"]["intra_op_num_threads"] == backend.threads == 2
    assert description["settings"]["schemes"] == ["int4-min-g32", "int8-g32"]
    assert (description["settings"]["accuracy_level"], description["settings"]["io_binding"]) == (4, True)


def test_a_model_is_built_once_and_anew_when_its_source_changes(tmp_path: Path, source: Path) -> None:
    built = onnx_model.cached_model(source)
    time = built.stat().st_mtime_ns
    assert onnx_model.cached_model(source) == built
    assert built.stat().st_mtime_ns == time
    write_gguf(source, types={EMBEDDING: "Q4_0"})
    assert onnx_model.cached_model(source) != built


def test_the_same_source_gives_the_same_bytes_converted_or_not(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "m.tmac2.bin", progress=False)
    graphs = [onnx_model.build(of, tmp_path / name / "m.onnx") for name, of in (("a", source), ("b", tmp_path / "m.tmac2.bin"))]
    assert graphs[0].read_bytes() == graphs[1].read_bytes()
    data = [graph.with_name("m.onnx.data").read_bytes() for graph in graphs]
    assert data[0] == data[1]


def test_the_codes_of_a_tied_head_are_stored_once(source: Path) -> None:
    embedding = open_checkpoint(source).tensors["model.embed_tokens.weight"]
    assert isinstance(embedding, QuantizedMatrix)
    graph = onnx_model.cached_model(source)
    assert graph.with_name(f"{graph.name}.data").read_bytes().count((embedding.codes.view(np.uint8) ^ 128).tobytes()) == 1


@pytest.mark.parametrize(
    ("types", "problem"),
    [
        ({}, r"model\.embed_tokens\.weight is int4-min-g32; GatherBlockQuantized has no minimums"),
        ({EMBEDDING: "F16"}, r"model\.embed_tokens\.weight is float16; the ONNX graph can have int4-g32, int4-min-g32 and int8-g32"),
        ({EMBEDDING: "Q8_0", "blk.1.ffn_up.weight": "Q4_0"}, r"layers\.1\.mlp\.gate_proj\.weight and .*up_proj\.weight are of two schemes"),
    ],
)
def test_what_the_graph_cannot_hold_is_refused_and_nothing_is_left(
    tmp_path: Path, cache: Path, types: dict[str, str], problem: str
) -> None:
    source = write_gguf(tmp_path / "m.gguf", types=types)
    with pytest.raises(UnsupportedModelError, match=problem):
        onnx_model.cached_model(source)
    assert list((cache / "models").iterdir()) == []


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="mamba"):
        onnx_model.cached_model(write_gguf(tmp_path / "m.gguf", architecture="mamba"))


def test_an_interrupted_build_leaves_nothing(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graph, "serialized", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        onnx_model.cached_model(source)
    assert list((cache / "models").iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("harm", "suffix"),
    [(cut, ""), (cut, ".data"), (Path.unlink, ".data"), (Path.unlink, "")],
    ids=["graph", "weights", "no weights", "none"],
)
def test_a_graph_that_is_not_whole(source: Path, harm: Callable[[Path], None], suffix: str) -> None:
    graph = onnx_model.cached_model(source)
    harm(graph.with_name(graph.name + suffix))
    with pytest.raises(ModelFileError, match=f"onnxruntime cannot load .*{graph.name}"):
        registry.load("onnxruntime", str(graph), threads=1, context=16)


def test_a_graph_of_others(tmp_path: Path) -> None:
    with (tmp_path / "data").open("wb") as data:
        graph = Graph(data, "data")
        graph.output(graph.node("Neg", [graph.input("x", np.float32, [1])], "y"), np.float32, [1])
        (tmp_path / "m.onnx").write_bytes(graph.serialized("other", {}))
    with pytest.raises(ModelFileError, match="an ONNX graph that EdgeLLM did not build"):
        OnnxRuntimeBackend(tmp_path / "m.onnx", threads=1, context=16)


@pytest.mark.parametrize(
    ("ids", "error", "problem"),
    [
        ([], InvalidRequestError, "there are no tokens to run"),
        ([3, VOCAB], InvalidRequestError, f"token id {VOCAB} is outside the vocabulary of {VOCAB}"),
        ([-1], InvalidRequestError, "token id -1 is outside"),
        ([3] * 17, ContextOverflowError, "17 tokens were given; the context holds 16"),
    ],
)
def test_tokens_that_cannot_be_run(backend: OnnxRuntimeBackend, ids: list[int], error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        backend.prefill(ids)


def test_a_context_that_is_full_and_one_that_the_model_has_not(source: Path, backend: OnnxRuntimeBackend) -> None:
    last = backend.prefill([3] * 16)
    assert np.isfinite(last).all()
    with pytest.raises(ContextOverflowError, match="17 tokens were given; the context holds 16"):
        backend.decode(3)
    with pytest.raises(InvalidRequestError, match="a context of 129 is not possible; 1 to 128 are"):
        registry.load("onnxruntime", str(source), threads=1, context=129)
    with pytest.raises(InvalidRequestError, match="takes no URL"):
        registry.load("onnxruntime=http://x", str(source), threads=1, context=16)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_package_that_is_not_installed(source: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendUnavailableError, match=r"the backend onnxruntime is not available: .*pip install 'edgellm\[baselines\]'"):
        registry.load("onnxruntime", str(source), threads=1, context=16)
