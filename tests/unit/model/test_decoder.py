"""The forward pass against the Llama equations, written down a second time over dense float64 matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import DecoderState, DecoderWeights, forward
from edgellm.ops import native
from edgellm.ops.interface import KEY_TILE, PackedMatrix, Step
from edgellm.ops.reference import Reference
from edgellm.runtime.weights import load_weights
from edgellm.runtime.workspace import new_cache, new_state
from tests.unit.runtime.synthetic import checkpoint

F64 = npt.NDArray[np.float64]
MODELS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one head of keys": {"num_attention_heads": 6, "num_key_value_heads": 1},
    "a head of keys for each": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 48},
    "wider than the hidden rows": {"num_attention_heads": 4, "head_dim": 64},
    "tied head": {"tie_word_embeddings": True, "num_hidden_layers": 1},
}
TOKENS = [5, 262, 0, 17, 17, 100, 3]


def llama(given: Checkpoint, tokens: list[int]) -> F64:
    """Logits [L, V], from the equations of the papers: RMSNorm, RoPE, grouped-query attention, SwiGLU."""
    c = ModelConfig.from_hf(given.config)
    w = {name: (t.dequantize() if isinstance(t, QuantizedMatrix) else t).astype(np.float64) for name, t in given.tensors.items()}
    length, dim, shared = len(tokens), c.head_dim, c.num_attention_heads // c.num_key_value_heads
    angles = np.outer(np.arange(length), c.rope.theta ** (-np.arange(dim // 2) * 2 / dim))
    turn = np.exp(1j * angles)[:, None, :]

    def norm(x: F64, name: str) -> F64:
        return np.asarray(x / np.sqrt((x**2).mean(axis=1, keepdims=True) + c.rms_norm_eps) * w[f"{name}.weight"])

    def rope(x: F64) -> F64:
        turned = (x[..., : dim // 2] + 1j * x[..., dim // 2 :]) * turn
        return np.concatenate([turned.real, turned.imag], axis=2)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(c.num_hidden_layers):
        layer = f"model.layers.{i}"
        normed = norm(x, f"{layer}.input_layernorm")
        q, k, v = ((normed @ w[f"{layer}.self_attn.{p}_proj.weight"].T).reshape(length, -1, dim) for p in "qkv")
        q, k = rope(q), rope(k)
        heads = []
        for h in range(c.num_attention_heads):
            scores = q[:, h] @ k[:, h // shared].T / np.sqrt(dim)
            scores[np.triu_indices(length, 1)] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, h // shared])
        x = x + np.concatenate(heads, axis=1) @ w[f"{layer}.self_attn.o_proj.weight"].T
        normed = norm(x, f"{layer}.post_attention_layernorm")
        gate, up = (normed @ w[f"{layer}.mlp.{p}_proj.weight"].T for p in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{layer}.mlp.down_proj.weight"].T
    head = w["model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"]
    return np.asarray(norm(x, "model.norm") @ head.T)


def prepared(given: Checkpoint, length: int = 8) -> tuple[ModelConfig, DecoderWeights[PackedMatrix], DecoderState, Step]:
    config = ModelConfig.from_hf(given.config)
    cache, _ = new_cache(config, KEY_TILE, np.float32)
    state, _ = new_state(config, cache, length, KEY_TILE, exact=True)
    return config, load_weights(given, config)[0], state, Step()


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_the_forward_pass_is_llama(changes: dict[str, Any]) -> None:
    """With unquantized activations only the float32 buffers between ops round: some hundred roundings of 2^-24."""
    given = checkpoint(**changes)
    config, weights, state, step = prepared(given)
    state.tokens_L[: len(TOKENS)] = TOKENS
    step.set(0, len(TOKENS), len(TOKENS))
    forward(Reference(quantize_activations=False), config, weights, state, step)
    expected = llama(given, TOKENS)
    np.testing.assert_allclose(state.logits_LV[: len(TOKENS)], expected, rtol=0, atol=256 * 2.0**-24 * np.abs(expected).max())


def test_a_prompt_in_two_steps_is_llama() -> None:
    given = checkpoint()
    config, weights, state, step = prepared(given)
    ops = Reference(quantize_activations=False)
    state.tokens_L[:4] = TOKENS[:4]
    step.set(0, 4, 0)
    forward(ops, config, weights, state, step)
    state.tokens_L[:3] = TOKENS[4:]
    step.set(4, 3, 1)
    forward(ops, config, weights, state, step)
    expected = llama(given, TOKENS)[-1]
    np.testing.assert_allclose(state.logits_LV[0], expected, rtol=0, atol=256 * 2.0**-24 * np.abs(expected).max())


# Each op of a layer, and whether it waits for all threads to finish those before.
LAYER = [
    ("rmsnorm_quantize", True),
    *[("matmul", True), ("matmul", False), ("matmul", False)],  # q, k and v: the same input, other outputs
    *[("rope", True), ("cache_append", False), ("attention", True)],
    *[("quantize", True), ("matmul", True)],
    ("rmsnorm_quantize", True),
    *[("matmul", True), ("matmul", False)],  # gate and up
    *[("gate_quantize", True), ("matmul", True)],
]


def test_the_plan_is_the_decoder_and_its_projections_do_not_wait_for_each_other() -> None:
    config, weights, state, step = prepared(checkpoint())
    recorder = native.Recorder("scalar")
    waits: list[bool] = []
    append = recorder.plan.append

    def note(op: Any, *arrays: Any) -> None:
        waits.append(bool(op.barrier))
        append(op, *arrays)

    recorder.plan.append = note  # type: ignore[method-assign, assignment]
    forward(recorder, config, weights, state, step)
    found = list(zip((op.name for op in recorder.plan.ops), waits, strict=True))
    assert found == [("embed", False), *LAYER, *LAYER, ("rmsnorm_quantize", True), ("matmul", True)]
