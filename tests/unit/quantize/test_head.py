"""The head by GPTQ: of its own, and where it is the embedding too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import UnsupportedModelError
from edgellm.formats.architecture import EMBEDDING, HEAD
from edgellm.formats.matrix import F32, QuantizedMatrix, Scheme
from edgellm.formats.tensors import LazyTensors
from edgellm.formats.tmac2 import read_tmac2, verify, write_tmac2
from edgellm.model.config import ModelConfig
from edgellm.ops.reference import Reference
from edgellm.quantize import head, layerwise, rewrite, rtn
from edgellm.quantize.gptq import Rounded, gptq
from edgellm.quantize.quantize import Recipe, quantize
from edgellm.quantize.rtn import by_rows, round_to_nearest
from edgellm.quantize.stream import HALVES, Stream
from edgellm.runtime.engine import Engine
from tests.unit.formats.synthetic import HF_CONFIG, HIDDEN, LAYERS, TOKENS, VOCAB, hf_weights, same_bits, write_hf

GPTQ = Recipe.named("int8", "int4-min-g64", method="gptq")
"""Of the layers next to nothing is lost."""
UP = "model.layers.1.mlp.up_proj.weight"


def write_source(folder: Path, tied: bool) -> Path:
    untied = {} if tied else {HEAD: np.random.default_rng(3).standard_normal((VOCAB, HIDDEN), np.float32)}
    return write_hf(folder, hf_weights() | untied, HF_CONFIG | {"tie_word_embeddings": tied})


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def source(tied: bool, tmp_path: Path) -> Path:
    return write_source(tmp_path / "m", tied)


def logits(path: Path) -> Any:
    tokens = np.random.default_rng(1).integers(3, len(TOKENS), 60).tolist()
    return Engine(path, threads=1, make_ops=lambda isa, pool: Reference()).logits(tokens)


def tensors(path: Path) -> dict[str, Any]:
    return {name: t.dequantize() if isinstance(t, QuantizedMatrix) else t for name, t in read_tmac2(path).tensors.items()}


def squared_error(weights: Any, others: Any) -> float:
    return float(((weights - others) ** 2).mean())


@pytest.mark.parametrize("scheme", ["int4-min-g32", "int3-min-g64", "ternary-row"])
def test_logits_are_nearer_than_by_a_head_that_is_rounded_to_nearest(
    scheme: str, source: Path, tied: bool, text: Path, tmp_path: Path
) -> None:
    """Each put as the head on the same int8 model. As an embedding, a fitted one is not much further off than a rounded one."""
    name = EMBEDDING if tied else HEAD
    quantize(source, tmp_path / "int8", Recipe.named("int8", "int8"), progress=False)
    for method in ("rtn", "gptq"):
        recipe = Recipe.named("int8", scheme, method=method)
        quantize(source, tmp_path / method, recipe, progress=False, calibration=[text] if method == "gptq" else [])
        model = read_tmac2(tmp_path / "int8")
        parts = dict(model.tensors) | {HEAD: read_tmac2(tmp_path / method).tensors[name]}
        write_tmac2(tmp_path / f"{method}-head", replace(model, config=model.config | {"tie_word_embeddings": False}, tensors=parts))
    assert verify(tmp_path / "gptq") == []
    ours, theirs = (squared_error(logits(tmp_path / f"{method}-head"), logits(tmp_path / "int8")) for method in ("gptq", "rtn"))
    weights = tensors(tmp_path / "int8")[name]
    ours_w, theirs_w = (squared_error(tensors(tmp_path / method)[name], weights) for method in ("gptq", "rtn"))
    assert ours < 0.8 * theirs
    assert not tied or ours_w < 2 * theirs_w


def test_the_error_of_what_it_puts_out_is_recorded(source: Path, tied: bool, text: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    errors = read_tmac2(tmp_path / "m.bin").provenance["output_error"]
    assert {EMBEDDING, HEAD} & set(errors) == {EMBEDDING if tied else HEAD}
    assert 0 < errors[EMBEDDING if tied else HEAD] < 0.002


def test_an_int8_head_and_an_embedding_that_is_none_are_rounded_to_nearest(source: Path, tied: bool, text: Path, tmp_path: Path) -> None:
    for head_scheme in ("int8", "int4-min-g64"):
        for method in ("gptq", "rtn"):
            recipe = Recipe.named("int8", head_scheme, method=method)
            quantize(source, tmp_path / method, recipe, progress=False, calibration=[text] if method == "gptq" else [])
        ours, theirs = tensors(tmp_path / "gptq"), tensors(tmp_path / "rtn")
        same = {name: same_bits(ours[name], theirs[name]) for name in (EMBEDDING, *([] if tied else [HEAD]))}
        assert same[EMBEDDING] == (not tied or head_scheme == "int8")
        assert tied or same[HEAD] == (head_scheme == "int8")


def test_layers_that_stay_are_run_once_for_the_head(source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again, after a head that is the embedding, for layers of which nothing is asked."""
    quantize(source, tmp_path / "layers.bin", Recipe.named("int4-min-g32", "int8"), progress=False)
    halves, advance = [], Stream.advance

    def counted(self: Stream, index: int, half: Any, layer: Any) -> None:
        halves.append(index)
        advance(self, index, half, layer)

    monkeypatch.setattr(Stream, "advance", counted)
    recipe = Recipe.named("int4-min-g32", "int4-min-g64", method="gptq")
    quantize(tmp_path / "layers.bin", tmp_path / "head.bin", recipe, progress=False, calibration=[text])
    assert halves == [index for index in range(LAYERS) for _ in HALVES]
    ours, theirs = tensors(tmp_path / "head.bin"), tensors(tmp_path / "layers.bin")
    assert same_bits(ours[UP], theirs[UP])


def test_embedding_and_head_may_have_schemes_that_differ(text: Path, tmp_path: Path) -> None:
    source = write_source(tmp_path / "m", tied=False)
    recipe = replace(GPTQ, tensors={HEAD: Scheme.parse("int3-min-g32"), EMBEDDING: Scheme.parse("ternary-row")})
    quantize(source, tmp_path / "m.bin", recipe, progress=True, calibration=[text])
    found = {name: spec.form for name, spec in LazyTensors.over(read_tmac2(tmp_path / "m.bin").tensors).specs.items()}
    assert (found[HEAD], found[EMBEDDING]) == ("int3-min-g32", "ternary-row")


@pytest.mark.parametrize("where", ["in the head", "in the layers", "in the file"])
def test_an_interrupted_one_goes_on_and_gives_the_same_bytes(
    where: str, source: Path, tied: bool, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(source, tmp_path / "whole.bin", GPTQ, progress=False, calibration=[text])
    module, name = {"in the head": (head, "gptq"), "in the layers": (layerwise, "gptq"), "in the file": (rewrite, "write")}[where]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    done = {file.stem for file in (tmp_path / "m.bin.partial").glob("*.npz")}
    layers = {f"layer-{i}" for i in range(LAYERS)}
    first, last = ({"embedding"}, set()) if tied else ({"embedding"}, {"lm_head"})
    expected = {"in the head": set() if tied else first | layers, "in the layers": first, "in the file": first | layers | last}
    assert done == expected[where]

    calls = []

    def counted(*arguments: Any) -> Rounded:
        calls.append(arguments[0])
        return gptq(*arguments)

    monkeypatch.setattr(head, "gptq", counted)
    quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    assert len(calls) == (("embedding" if tied else "lm_head") not in done)
    assert (tmp_path / "m.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()


@pytest.mark.parametrize("scheme", ["int4-min-g32", "tritplanes2-g64", "int8-row", "int3-tensor"])
def test_rows_are_rounded_some_at_a_time_unless_they_share_a_scale(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, parsed, sizes = np.random.default_rng(0).standard_normal((10, HIDDEN), np.float32), Scheme.parse(scheme), []

    def rounded(rows: F32) -> QuantizedMatrix:
        sizes.append(len(rows))
        return round_to_nearest("w", rows, parsed)

    whole = round_to_nearest("w", weights, parsed).dequantize()
    monkeypatch.setattr(rtn, "ROWS_OF", 4 * HIDDEN)
    assert same_bits(by_rows(weights, parsed, rounded).dequantize(), whole)
    assert sizes == ([10] if parsed.group == "tensor" else [4, 4, 2])


def test_the_stream_tells_what_the_head_is_given() -> None:
    config, weights = ModelConfig.from_hf(HF_CONFIG), hf_weights()
    stream = Stream(config, np.arange(12, dtype=np.int32).reshape(3, 4), weights[EMBEDDING], 1, "float32")
    x = (
        weights[EMBEDDING]
        / np.sqrt((weights[EMBEDDING] ** 2).mean(axis=1, keepdims=True) + config.rms_norm_eps)
        * weights["model.norm.weight"]
    )
    np.testing.assert_allclose(stream.final_hessian(weights["model.norm.weight"]), x.T @ x / 12, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e38])
@pytest.mark.parametrize(("name", "layer"), [(EMBEDDING, 0), ("model.layers.0.self_attn.v_proj.weight", 0), (UP, 1)])
def test_weights_that_are_not_finite_are_refused(bad: float, name: str, layer: int, text: Path, tmp_path: Path) -> None:
    weights = hf_weights()
    weights[name][3:9, 5] = bad
    source = write_hf(tmp_path / "m", weights)
    states, own = f"the states after layer {layer} are not finite: a weight of it, or of the embedding,", f"tensor {EMBEDDING} has a weight"
    with pytest.raises(UnsupportedModelError, match=f"{states}|{own}" if name == EMBEDDING else states):
        quantize(source, tmp_path / "m.bin", GPTQ, progress=False, calibration=[text])
    assert not (tmp_path / "m.bin").exists()
