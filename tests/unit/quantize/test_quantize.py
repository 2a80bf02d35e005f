"""Whole models quantized: what becomes of each tensor, what is recorded of it, that the result runs, and what is refused on the way."""

from __future__ import annotations

import errno
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.errors import FetchError, InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.formats.digest import sha256_of
from edgellm.formats.gguf import read_gguf
from edgellm.formats.inspect import describe
from edgellm.formats.matrix import QuantizedMatrix, Scheme
from edgellm.formats.tmac2 import read_tmac2, verify
from edgellm.ops.reference import Reference
from edgellm.quantize import quantize as module
from edgellm.quantize.convert import convert
from edgellm.quantize.quantize import Recipe, quantize
from edgellm.quantize.rtn import round_to_nearest
from edgellm.runtime.engine import Engine
from tests import tiny
from tests.kernels.data import SCHEMES
from tests.unit.formats.synthetic import (
    HEAD_DIM,
    HEADS,
    HF_CONFIG,
    HIDDEN,
    VOCAB,
    hf_weights,
    same_bits,
    write_gguf,
    write_hf,
)

EMBEDDING, UP = "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"
TERNARY = Recipe.named("ternary")


def floats(tensor: Any) -> Any:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor


def forms(path: Path) -> dict[str, str]:
    return {row["name"]: row["scheme"] for row in describe(path)["tensors"]}


@pytest.mark.parametrize(
    ("scheme", "head", "body", "of_head", "label"),
    [
        ("ternary", "keep", "ternary-g64", None, "ternary-rtn"),
        ("ternary", "int4", "ternary-g64", "int4-g32", "ternary-int4head-rtn"),
        ("int8", "keep", "int8-g32", None, "int8-rtn"),
        ("int8-g64", "int8", "int8-g64", "int8-g32", "int8-g64-int8head-rtn"),
        ("int4-min", "int4-min", "int4-min-g64", "int4-min-g32", "int4-min-int4-minhead-rtn"),
        ("tritplanes2-row", "int8-row", "tritplanes2-row", "int8-row", "tritplanes2-row-int8-rowhead-rtn"),
        ("ternary-tensor", "ternary-g64", "ternary-tensor", "ternary-g64", "ternary-tensor-ternary-g64head-rtn"),
    ],
)
def test_names_of_recipes(scheme: str, head: str, body: str, of_head: str | None, label: str) -> None:
    recipe = Recipe.named(scheme, head)
    assert (str(recipe.body), recipe.head and str(recipe.head), recipe.label) == (body, of_head, label)
    for activations, said in (("int8-token", "-token-rtn"), ("int8-g32", "-group-rtn")):
        assert Recipe.named(scheme, head, activations).label == label.replace("-rtn", said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ternary-g7",), "scheme 'ternary-g7' is unknown; possible: ternary, .*int2-min, alone or with one of -g32, .*-tensor"),
        (("int8-min",), "scheme 'int8-min' is unknown"),
        (("keep",), "scheme 'keep' is unknown"),
        (("",), "scheme '' is unknown"),
        (("ternary", "int5"), "scheme 'int5' is unknown"),
        (("ternary", "keep", "f32"), "activations 'f32' is unknown; possible: int8-g32, int8-token"),
        (("ternary", "keep", "int8-g32", "awq"), "method 'awq' is unknown; possible: rtn, gptq"),
    ],
)
def test_what_has_no_recipe_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Recipe.named(*arguments)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_model_of_every_scheme_says_what_its_weights_say(scheme: Scheme, tmp_path: Path) -> None:
    """From the file through packing to logits: as NumPy computes them from the weights as they were rounded."""
    source, path = write_hf(tmp_path / "m"), tmp_path / "m.tmac2.bin"
    quantize(source, path, Recipe(scheme, head=scheme), progress=False)
    assert verify(path) == []
    stored = read_tmac2(path).tensors
    for name, weights in hf_weights().items():
        expected = floats(round_to_nearest(name, weights, scheme)) if weights.ndim == 2 else weights
        assert same_bits(floats(stored[name]), expected), name
    engine, tokens = edgellm.load(path, threads=1), [i % VOCAB for i in range(20)]
    expected = Engine(path, threads=1, make_ops=lambda isa, pool: Reference()).logits(tokens)
    # Rounding in float32 may give an activation its neighbouring code, 1/127 of its group's largest; so may the values after it.
    np.testing.assert_allclose(engine.logits(tokens), expected, rtol=0, atol=2 * np.abs(expected).max() / 127)
    assert list(engine.generate(tokens, max_tokens=3))


def test_a_matrix_that_is_in_its_scheme_is_kept_and_others_are_rounded_from_their_weights(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"token_embd.weight": "Q8_0", "blk.1.ffn_up.weight": "F16", "output_norm.weight": "F16"})
    quantize(source, tmp_path / "m.bin", Recipe.named("int4-min-g32"), progress=False)
    before, after = read_gguf(source).tensors, read_tmac2(tmp_path / "m.bin").tensors
    rounded = round_to_nearest(UP, floats(before[UP]).astype(np.float32), Scheme.parse("int4-min-g32"))
    for name, tensor in before.items():
        assert same_bits(floats(after[name]), floats(rounded if name == UP else tensor).astype(np.float32)), name
    assert forms(tmp_path / "m.bin")[EMBEDDING] == "int8-g32"


@pytest.mark.parametrize(
    ("head", "form"), [("keep", "int8-g32"), ("int4", "int4-g32"), ("int4-min-g64", "int4-min-g64"), ("ternary", "ternary-g32")]
)
@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head_have_a_scheme_of_their_own(head: str, form: str, tied: bool, tmp_path: Path) -> None:
    untied = {} if tied else {"lm_head.weight": np.ones((VOCAB, HIDDEN), np.float32)}
    source = write_hf(tmp_path / "m", hf_weights() | untied, HF_CONFIG | {"tie_word_embeddings": tied})
    quantize(source, tmp_path / "m.bin", Recipe.named("int2", head), progress=False)
    found = forms(tmp_path / "m.bin")
    heads = {name for name in found if name in (EMBEDDING, "lm_head.weight")}
    assert len(heads) == 1 + (not tied)
    assert {found[name] for name in heads} == {form}
    assert {form for name, form in found.items() if name not in heads} == {"int2-g64", "float32"}


def test_a_quantized_head_is_kept_as_it_is(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", matrix_type="Q4_0")
    quantize(source, tmp_path / "m.bin", TERNARY, progress=False)
    before, after = read_gguf(source).tensors[EMBEDDING], read_tmac2(tmp_path / "m.bin").tensors[EMBEDDING]
    assert isinstance(before, QuantizedMatrix)
    assert isinstance(after, QuantizedMatrix)
    assert (after.scheme, same_bits(after.codes, before.codes), same_bits(after.scales, before.scales)) == (before.scheme, True, True)


def test_the_report_and_the_provenance(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", types={"token_embd.weight": "Q8_0"})
    report = quantize(source, tmp_path / "m.bin", Recipe.named("ternary", activations="int8-token"), progress=False)
    before, after = read_gguf(source).tensors, read_tmac2(tmp_path / "m.bin").tensors
    rounded = [name for name, tensor in after.items() if isinstance(tensor, QuantizedMatrix) and name != EMBEDDING]
    error = sum(((floats(before[name]) - floats(after[name])) ** 2).sum() for name in rounded)
    square = sum((floats(before[name]) ** 2).sum() for name in rounded)
    body = report.schemes["ternary-g64"]
    assert body.relative_squared_error == pytest.approx(error / square, rel=1e-3)
    assert 0.1 < error / square < 0.2
    assert (body.tensors, body.weights) == (14, sum(np.prod(after[name].shape) for name in rounded))
    assert body.nbytes == sum(after[name].nbytes for name in rounded)
    assert (report.schemes["int8-g32"].relative_squared_error, report.schemes["float32"].relative_squared_error) == (None, None)
    assert {name: part.scheme for name, part in report.tensors.items()} == forms(tmp_path / "m.bin")
    assert report.tensors[UP].bits_per_weight == 8 * after[UP].nbytes / np.prod(after[UP].shape)
    assert {part.output_error for part in report.tensors.values()} == {None}
    assert (report.activations, report.seconds > 0) == ("int8-token", True)
    assert report.destination_bytes == (tmp_path / "m.bin").stat().st_size
    assert report.bits_per_weight == describe(tmp_path / "m.bin")["bits_per_weight"]
    checkpoint = read_tmac2(tmp_path / "m.bin")
    assert checkpoint.activations == describe(tmp_path / "m.bin")["activations"] == "int8-token"
    assert checkpoint.provenance == {
        "source": "m.gguf",
        "format": "gguf",
        "source_sha256": sha256_of(source),
        "calibration": None,
        "schemes": ["ternary-g64 by rtn"],
        "tool": f"edgellm {edgellm.__version__}",
        "method": "rtn",
        "quality": "not measured",
        "relative_squared_error": {"ternary-g64": body.relative_squared_error},
    }


def test_a_model_quantized_again_keeps_its_source_and_lists_its_steps(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    convert(source, tmp_path / "a.bin", progress=False)
    quantize(tmp_path / "a.bin", tmp_path / "b.bin", Recipe.named("int3", "int4"), progress=False)
    convert(tmp_path / "b.bin", tmp_path / "c.bin", progress=False)
    provenance = read_tmac2(tmp_path / "c.bin").provenance
    assert (provenance["source_sha256"], provenance["schemes"]) == (sha256_of(source), ["keep", "int3-g64 by rtn, head int4-g32", "keep"])
    assert (provenance["method"], provenance["quality"]) == ("rtn", "not measured")


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    for name, progress in (("a.bin", False), ("b.bin", True)):
        quantize(source, tmp_path / name, TERNARY, progress=progress)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_heads_that_are_null_are_as_many_as_there_are(tmp_path: Path) -> None:
    weights = hf_weights() | {
        f"model.layers.{i}.self_attn.{name}_proj.weight": np.ones((HEADS * HEAD_DIM, HIDDEN), np.float32) for i in (0, 1) for name in "kv"
    }
    source = write_hf(tmp_path / "m", weights, {**HF_CONFIG, "num_key_value_heads": None})
    quantize(source, tmp_path / "m.bin", TERNARY, progress=False)
    assert read_tmac2(tmp_path / "m.bin").config["num_key_value_heads"] is None


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    weights = {name: np.ones((1024, 1024), np.float32) if w.ndim == 2 else np.ones(1024, np.float32) for name, w in hf_weights().items()}
    sizes = {"hidden_size": 1024, "intermediate_size": 1024, "vocab_size": 1024}
    config = HF_CONFIG | sizes | {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 256}
    source = write_hf(tmp_path / "m", weights, config)
    largest = 4 << 20
    tracemalloc.start()
    quantize(source, tmp_path / "m.bin", Recipe.named("tritplanes2"), progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 7 * largest < 14 * largest  # 15 matrices of that size


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused_and_the_old_file_stays(bad: float, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    convert(write_gguf(tmp_path / "m.gguf"), path, progress=False)
    before = path.read_bytes()
    source = write_gguf(tmp_path / "n.gguf", tensors={"blk.1.ffn_up.weight": np.full((96, 64), bad, np.float32)}, matrix_type="F32")
    with pytest.raises(UnsupportedModelError, match=f"{UP} has a weight that is not finite"):
        quantize(source, path, TERNARY, progress=False)
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"m.bin", "m.gguf", "n.gguf"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_leaves_the_old_file(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = write_gguf(tmp_path / "m.gguf"), tmp_path / "m.bin"
    path.write_bytes(b"old")
    calls: Iterator[int] = itertools.count()

    def stop_at_the_third(*arguments: Any) -> QuantizedMatrix:
        if next(calls) == 2:
            raise error
        return round_to_nearest(*arguments)

    monkeypatch.setattr(module, "round_to_nearest", stop_at_the_third)
    with pytest.raises((type(error), FetchError), match="the disk is full" if isinstance(error, OSError) else None):
        quantize(source, path, TERNARY, progress=False)
    assert path.read_bytes() == b"old"
    assert {file.name for file in tmp_path.iterdir()} == {"m.bin", "m.gguf"}


def test_what_cannot_be_read_or_written_is_refused(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    for destination, error, message in (
        (source, InvalidRequestError, "is what is to be converted; give the name of another file"),
        (tmp_path, InvalidRequestError, "is a folder; give the name of a file"),
        (source / "m.bin", FetchError, "cannot be written"),
    ):
        with pytest.raises(error, match=message):
            quantize(source, destination, TERNARY, progress=False)
    with pytest.raises(ModelFileError, match="cannot be read"):
        quantize(tmp_path / "none.gguf", tmp_path / "m.bin", TERNARY)
    with pytest.raises(UnsupportedModelError, match="config key sliding_window = 64 is unknown"):
        quantize(write_hf(tmp_path / "w", config=HF_CONFIG | {"sliding_window": 64}), tmp_path / "m.bin", TERNARY)


def test_packed_trits_stay_as_they_are_where_all_else_is_rounded(tmp_path: Path, tokenizer_json: str) -> None:
    """A BitNet as its authors store it: only the embedding is a float."""
    given = tiny.checkpoint("bitnet")
    offline = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    source = write_hf(tmp_path / "m", tiny.packed_bitnet(given), given.config | {"quantization_config": offline}, tokenizer_json)
    quantize(source, tmp_path / "m.bin", Recipe.named("ternary-tensor"), progress=False)
    read = read_tmac2(tmp_path / "m.bin")
    assert read.activations == "int8-token"
    for name, tensor in read.tensors.items():
        if name.startswith("model.layers"):
            assert same_bits(tiny.dense(tensor), tiny.dense(given.tensors[name])), name
    with edgellm.load(tmp_path / "m.bin", threads=1) as engine:
        assert np.isfinite(engine.prefill(tiny.tokens())).all()
    quantize(source, tmp_path / "m.bin", Recipe.named("ternary-tensor", activations="int8-g32"), progress=False)
    assert read_tmac2(tmp_path / "m.bin").activations == "int8-g32"
