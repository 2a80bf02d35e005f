"""Every family's tiny model against transformers' own implementation, whose logits `nox -s parity -- --write` recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.formats.tmac2 import write_tmac2
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import op_names
from edgellm.ops.reference import Reference
from edgellm.runtime.engine import Engine
from tests import tiny
from tests.conftest import Report

F32 = npt.NDArray[np.float32]
GOLDEN = Path(__file__).parents[2] / "golden"
FACTS = json.loads((GOLDEN / "families.json").read_text())
OP_OF = {
    "embed_tokens": "embed",
    "bias": "add_bias",
    "q_norm": "rmsnorm",
    "k_norm": "rmsnorm",
    "proj": "matmul",
    "head": "matmul",
    "emb": "rope",
    "cache": "cache_append",
    "attention": "attention",
    "quantize": "quantize",
    "norm": "rmsnorm_quantize",
}


@pytest.fixture(params=tiny.CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str, tmp_path: Path, tokenizer_json: str) -> Path:
    path = tmp_path / f"{name}.tmac2.bin"
    write_tmac2(path, tiny.checkpoint(name, tokenizer_json))
    return path


def engine(model: Path, name: str, **settings: Any) -> Engine:
    return Engine(model, kv_dtype="f32", context=tiny.CONTEXTS.get(name), **{"threads": 1, **settings})


def recorded(name: str) -> F32:
    """transformers' logits at tiny.RECORDED."""
    logits: F32 = np.load(GOLDEN / "families.npz")[name]
    return logits


def test_the_weights_are_those_that_were_recorded(name: str) -> None:
    assert tiny.digest(tiny.checkpoint(name)) == FACTS["weights_sha256"][name]


def test_without_int8_activations_the_forward_pass_is_transformers(name: str, model: Path, report: Report) -> None:
    """Measured: 3e-6 to 1.2e-5, where logits reach 4.5 to 6.4; float32 sums in another order."""
    exact = engine(model, name, make_ops=lambda isa, pool: Reference(quantize_activations=False), keep_exact_activations=True)
    distance = float(np.abs(exact.logits(tiny.tokens())[tiny.RECORDED] - recorded(name)).max())
    report("parity", f"{name}, exact activations, from transformers: max |dlogit| {distance:.1e}", family=name, max_abs_dlogit=distance)
    assert distance < 5e-5


def test_the_kernels_are_as_near_as_their_reference(name: str, model: Path, report: Report) -> None:
    """What int8 activations cost, and that the plan, two threads and chunks of a prompt add nothing to it. Of the first token only rounding
    differs; further on an activation that lies between two codes may go to one here and to the other there, which later tokens inherit.
    """
    expected = recorded(name)
    found = engine(model, name).logits(tiny.tokens())
    distance, largest = float(np.abs(found[tiny.RECORDED] - expected).max()), float(np.abs(expected).max())
    report("parity", f"{name}, int8 activations, from transformers: max |dlogit| {distance:.2f}", family=name, max_abs_dlogit=distance)
    reference = engine(model, name, make_ops=lambda isa, pool: Reference()).logits(tiny.tokens())
    np.testing.assert_allclose(found[0], reference[0], rtol=0, atol=1e-5)
    assert np.sqrt(np.mean((found - reference) ** 2)) < 6e-3 * largest
    assert distance < 0.08 * largest
    np.testing.assert_array_equal(engine(model, name, threads=2, prefill_chunk=7).logits(tiny.tokens()), found)
    np.testing.assert_array_equal(engine(model, name, isa="scalar").prefill(tiny.tokens()), found[-1])


def test_bitnet_is_transformers_with_its_activations_in_int8(tmp_path: Path, tokenizer_json: str, report: Report) -> None:
    path = tmp_path / "bitnet.tmac2.bin"
    write_tmac2(path, tiny.checkpoint("bitnet", tokenizer_json))
    distance = float(np.abs(engine(path, "bitnet").logits(tiny.tokens())[tiny.RECORDED] - recorded("bitnet_int8")).max())
    report("parity", f"bitnet, from transformers' int8 activations: max |dlogit| {distance:.2f}", family="bitnet", max_abs_dlogit=distance)
    assert distance < 0.2


def test_every_op_has_its_name(name: str, model: Path) -> None:
    config = ModelConfig.from_hf(tiny.CONFIGS[name])
    plan = engine(model, name).plan
    assert plan is not None
    assert [op.name for op in plan.ops] == [named(op, config) for op in op_names(config)]


def named(op: str, config: ModelConfig) -> str:
    """The op of `interface.Ops` that one of `op_names` is."""
    if op.endswith("act_fn"):
        return "relu2_gate" if config.hidden_act == "relu2" else "gate_quantize"
    if config.post_norms and op.endswith(("post_attention_layernorm", "post_feedforward_layernorm")):
        return "rmsnorm_add"
    return next(name for end, name in OP_OF.items() if op.endswith(end))
