"""Synthetic models load, run, say finite nonsense, and say that they are synthetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm.formats.matrix import INTEGER_BITS, Scheme
from edgellm.formats.tmac2 import write_tmac2
from edgellm.measure import synthetic
from tests.unit.formats.synthetic import same_bits

TINY = replace(synthetic.SHAPES["3.8B"], hidden_size=192, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, vocab_size=272)


@pytest.mark.parametrize("body", ["ternary-g64", "tritplanes2-row", "int8-g32", "int4-min-g32", "int3-tensor", "int2-g128"])
def test_a_model_of_any_scheme_runs(tmp_path: Path, body: str) -> None:
    path = tmp_path / "synthetic.tmac2.bin"
    shape = replace(TINY, num_key_value_heads=1, head_dim=96)
    write_tmac2(path, synthetic.checkpoint(shape, Scheme.parse(body), Scheme.parse("int4-g32")))
    engine = edgellm.load(path, threads=1)
    logits = engine.logits(engine.tokenizer.encode("noise"))
    assert logits.shape == (5, 272)
    assert np.isfinite(logits).all()
    assert logits.std() > 0.01


@pytest.mark.parametrize("size", synthetic.SHAPES)
def test_models_have_the_size_that_they_are_called_by(size: str) -> None:
    made = synthetic.checkpoint(synthetic.SHAPES[size], Scheme.parse("ternary-g64"), Scheme.parse("int4-g32"))
    weights = sum(spec.weights for spec in made.tensors.specs.values())  # type: ignore[attr-defined]
    assert weights == pytest.approx({"135M": 135e6, "0.5B": 0.494e9, "1B": 1.24e9, "3.8B": 3.82e9}[size], rel=0.01)
    assert made.provenance["source"].startswith("synthetic: ")


def test_the_same_name_gives_the_same_matrix() -> None:
    first, again, other = (synthetic.random_matrix(name, Scheme.parse("ternary-row"), 16, 64) for name in ("a", "a", "b"))
    assert same_bits(first.codes, again.codes)
    assert not same_bits(first.codes, other.codes)


@pytest.mark.parametrize("scheme", ["ternary-g64", "tritplanes3-g64", "int8-g32", "int4-g32", "int3-min-g32", "int2-min-g64"])
def test_rows_have_a_length_of_about_one_and_every_code_occurs(scheme: str) -> None:
    matrix = synthetic.random_matrix("w", Scheme.parse(scheme), 16, 512)
    assert np.linalg.norm(matrix.dequantize(), axis=1) == pytest.approx(np.ones(16), rel=0.2)
    levels = 3 if matrix.scheme.is_trits else 1 << INTEGER_BITS[matrix.scheme.family]
    assert len(np.unique(matrix.integer_codes())) == levels
