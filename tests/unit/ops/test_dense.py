"""Dense ops against the reference's: the same forward pass up to float32 rounding, activations rounded as the kernels round them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import DecoderWeights, Matrix, forward
from edgellm.ops.dense import Dense, Rounding, rounded
from edgellm.ops.interface import F32, KEY_TILE, CacheLayer, GateActivation, MatrixOps, Partials, Step
from edgellm.ops.reference import Reference, quantize_rows
from edgellm.runtime.weights import load_dense, load_weights
from edgellm.runtime.workspace import Arena, new_activation, new_cache, new_state
from tests.unit.runtime.synthetic import checkpoint

TOKENS = np.arange(90) * 7 % 250
CONTEXT = 2 * KEY_TILE


def logits(ops: MatrixOps[Matrix], config: ModelConfig, weights: DecoderWeights[Matrix], steps: list[int]) -> F32:
    """Of TOKENS, in steps of so many tokens; of each step's last token."""
    cache, _ = new_cache(config, CONTEXT, np.float32)
    state, _ = new_state(config, cache, CONTEXT, CONTEXT, exact=True)
    step, done, found = Step(), 0, []
    for count in steps:
        state.tokens_L[:count] = TOKENS[done : done + count]
        step.set(done, count, 1)
        forward(ops, config, weights, state, step)
        found.append(state.logits_LV[0].copy())
        done += count
    return np.stack(found)


@pytest.mark.parametrize("changes", [{}, {"num_attention_heads": 6, "num_key_value_heads": 1}, {"tie_word_embeddings": True}], ids=str)
@pytest.mark.parametrize("queries", [16, 256])
def test_the_forward_pass_is_the_references(changes: dict[str, Any], queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.ops.dense.QUERIES", queries)
    given = checkpoint(**changes)
    config = ModelConfig.from_hf(given.config)
    expected = logits(Reference(quantize_activations=False), config, load_weights(given, config)[0], [60, 29, 1])
    found = logits(Dense(), config, load_dense(given, config), [60, 29, 1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=512 * 2.0**-24 * np.abs(expected).max())


@pytest.mark.parametrize("rounding", ["int8-g32", "int8-token"])
def test_activations_are_rounded_as_the_kernels_round_them(rounding: Rounding) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((9, 96)) * np.exp(rng.normal(0, 3, (9, 96)))).astype(np.float32)
    x[1], x[2, :32], x[3] = 0, 0, 1e-38
    out = new_activation(Arena(1 << 16), 9, 96, per_token=rounding == "int8-token")
    quantize_rows(out, x.astype(np.float64))
    expected = (out.codes.reshape(9, -1, out.group) * out.scales[:, :, None]).reshape(x.shape)
    assert np.array_equal(rounded(x, rounding), expected)


@pytest.mark.parametrize("name", ["", "int8", "float16"])
def test_roundings_that_are_not_known_are_refused(name: Any) -> None:
    with pytest.raises(InvalidRequestError, match=f"activations '{name}' are unknown; possible: float32, int8-g32, int8-token"):
        Dense(name)


def test_buffers_without_room_for_floats_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="make the buffers with exact=True"):
        Dense().quantize(new_activation(Arena(1 << 16), 1, 32), np.zeros((1, 32), np.float32), Step())


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_gates_are_the_references_and_do_not_overflow(activation: GateActivation) -> None:
    step, (given, expected) = Step(), (new_activation(Arena(1 << 16), 1, 64, exact=True) for _ in range(2))
    step.set(0, 1, 1)
    gate = np.concatenate([np.linspace(-600, 600, 32), np.linspace(-4, 4, 32)]).astype(np.float32)[None]
    ops: Dense | Reference
    for ops, out in ((Dense(), given), (Reference(), expected)):
        ops.gate_quantize(out, gate, np.ones_like(gate), activation, step)
    assert given.exact is not None
    assert expected.exact is not None
    np.testing.assert_allclose(given.exact, expected.exact, rtol=1e-6, atol=20 * 2.0**-24)  # 1 + tanh rounds at 2^-24, where g is about -20


@pytest.mark.parametrize("window", [1, 5, 64, 200])
def test_windows_are_the_references(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.ops.dense.QUERIES", 16)
    rng, step = np.random.default_rng(0), Step()
    step.set(20, 50, 0)
    q, found, expected = rng.standard_normal((3, 64, 4, 16), np.float32)
    cache = CacheLayer(rng.standard_normal((2, 2, 16, KEY_TILE), np.float32), rng.standard_normal((2, CONTEXT, 16), np.float32))
    scratch = Partials(found, np.zeros(1, np.int32))
    ops: Dense | Reference
    for ops, out in ((Dense(), found), (Reference(), expected)):
        ops.attention(out, q, cache, scratch, 0.25, step, window)
    np.testing.assert_allclose(found[:50], expected[:50], rtol=0, atol=1e-5)


def test_norms_biases_and_relu2_are_the_references() -> None:
    rng, step = np.random.default_rng(0), Step()
    step.set(0, 3, 0)
    weight, x = rng.standard_normal(32, np.float32), rng.standard_normal((4, 32), np.float32)
    results = []
    ops: Dense | Reference
    for ops in (Dense(), Reference()):
        heads, total, up, biased = x.reshape(4, 1, 32).copy(), x.copy(), x.copy(), x.copy()
        ops.rmsnorm(heads, weight, 1e-5, step)
        ops.rmsnorm_add(total, x, weight, 1e-5, step)
        ops.relu2_gate(x, up, step)
        ops.add_bias(biased, weight, step)
        results.append(np.stack([heads[:, 0], total, up, biased]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
    assert np.array_equal(results[0][:, 3], np.stack([x[3]] * 4))  # of a token that the step does not have
