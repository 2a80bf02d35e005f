from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import ContextOverflowError
from edgellm.evaluate import dequantised
from edgellm.evaluate.dequantised import Dequantised
from edgellm.ops.reference import Reference
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
    baseline = Dequantised(synthetic_model, len(PROMPT))
    np.testing.assert_allclose(baseline.logits(PROMPT), expected, rtol=0, atol=1e-4)
    monkeypatch.setattr(dequantised, "CHUNK", 7)
    np.testing.assert_allclose(baseline.logits(PROMPT), expected, rtol=0, atol=1e-4)


def test_a_longer_text_is_refused(synthetic_model: Path) -> None:
    with pytest.raises(ContextOverflowError, match="40 tokens were given; the baseline was made for 39"):
        Dequantised(synthetic_model, 39).logits(PROMPT)
