"""The engine in float32 BLAS: that it says what the reference says, of any source and however a text is cut."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import ContextOverflowError, UnsupportedModelError
from edgellm.evaluate.perplexity import from_logits
from edgellm.formats import open_checkpoint
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tmac2 import write_tmac2
from edgellm.ops.reference import Reference
from edgellm.runtime import dense_engine
from edgellm.runtime.dense_engine import DenseEngine
from edgellm.runtime.engine import Engine

PROMPT = [i * 5 % 256 for i in range(40)]


def test_the_reference_without_quantized_activations_says_the_same(synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, from the packed weights; and the chunks of a text change nothing."""
    unquantized = Engine(
        synthetic_model,
        threads=1,
        kv_dtype="f32",
        make_ops=lambda isa, pool: Reference(quantize_activations=False),
        keep_exact_activations=True,
    )
    expected = unquantized.logits(PROMPT)
    for chunk in (256, 7):
        monkeypatch.setattr(dense_engine, "CHUNK", chunk)
        np.testing.assert_allclose(DenseEngine(synthetic_model, threads=1).logits(PROMPT), expected, rtol=0, atol=1e-4)


def test_scores_are_those_of_the_logits(synthetic_model: Path) -> None:
    engine = DenseEngine(synthetic_model, threads=1, context=40)
    expected = from_logits(engine.logits)([*PROMPT, 3], 9)
    found = engine.score([*PROMPT, 3], 9)
    np.testing.assert_allclose(found.nll, expected.nll, rtol=1e-6)
    assert np.array_equal(found.greedy, expected.greedy)
    with pytest.raises(ContextOverflowError, match="41 tokens were given; the context holds 40"):
        engine.logits([*PROMPT, 3])


def test_weights_that_no_kernel_takes(synthetic_model: Path, tmp_path: Path) -> None:
    """Matrices of floats, without a copy in any other type."""
    given = open_checkpoint(synthetic_model)
    floats = {name: tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor for name, tensor in given.tensors.items()}
    path = tmp_path / "floats.tmac2.bin"
    write_tmac2(path, replace(given, tensors=floats))
    with pytest.raises(UnsupportedModelError, match="matrices must be quantized"):
        Engine(path, threads=1)
    engine = DenseEngine(path, threads=1)
    assert np.array_equal(engine.logits(PROMPT), DenseEngine(synthetic_model, threads=1).logits(PROMPT))
    assert engine.memory()["weights"] == sum(tensor.nbytes for tensor in floats.values())
    if (maps := Path("/proc/self/maps")).exists():
        del floats, given
        assert os.fspath(path) not in maps.read_text()
