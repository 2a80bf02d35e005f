"""A model that is asked to look for NaN and infinities says where the first came up, and goes on from before it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm.errors import NonFiniteError
from edgellm.formats.checkpoint import Tensor
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tmac2 import write_tmac2
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import op_names
from edgellm.ops import native
from edgellm.ops.interface import CheckingOps
from edgellm.ops.reference import Reference
from edgellm.runtime.engine import Engine
from tests.unit.runtime.synthetic import CONFIG, VOCAB, checkpoint

PROMPT = [i * 5 % VOCAB for i in range(20)]
OP_OF = {"embed_tokens": "embed", "layernorm": "rmsnorm_quantize", "norm": "rmsnorm_quantize", "proj": "matmul", "head": "matmul"} | {
    "emb": "rope", "cache": "cache_append", "attention": "attention", "quantize": "quantize", "fn": "gate_quantize"}  # fmt: skip
MAKE_OPS: dict[str, Callable[[str, native.Pool], CheckingOps] | None] = {
    "plan": None,
    "eager": native.Eager,
    "NumPy": lambda isa, pool: Reference(),
}


def named(op: str) -> str:
    """The op of `interface.Ops` that one of `op_names` is."""
    return next(name for end, name in OP_OF.items() if op.endswith(end))


def test_every_op_is_checked_under_its_name(synthetic_model: Path) -> None:
    plain, checking = edgellm.load(synthetic_model, threads=1).plan, edgellm.load(synthetic_model, threads=1, check_finite=True).plan
    assert plain
    assert checking
    expected = [named(name) for name in op_names(ModelConfig.from_hf(CONFIG))]
    assert [op.name for op in plain.ops] == expected
    assert [op.name for op in checking.ops[::2]] == expected
    assert [op.name for op in checking.ops[1::2]] == ["check_cache" if name == "cache_append" else "check_finite" for name in expected]


def test_checking_changes_no_bit(synthetic_model: Path) -> None:
    checking = edgellm.load(synthetic_model, threads=2, check_finite=True, prefill_chunk=7)
    np.testing.assert_array_equal(checking.logits(PROMPT), edgellm.load(synthetic_model, threads=2).logits(PROMPT))


@pytest.mark.parametrize("make_ops", MAKE_OPS.values(), ids=MAKE_OPS)
def test_the_engine_goes_on_from_before_the_step(make_ops: Callable[[str, native.Pool], CheckingOps] | None, synthetic_model: Path) -> None:
    engine = Engine(synthetic_model, threads=2, prefill_chunk=4, check_finite=True, make_ops=make_ops)
    expected = engine.logits(PROMPT)[-1]
    engine.reset()
    cos_TE = engine._state.rope["full_attention"].cos_TE
    kept, cos_TE[10, 3] = cos_TE[10, 3], np.nan
    message = re.escape("model.layers.0.self_attn.rotary_emb gave NaN or infinity at position 10, element 3: ")
    with pytest.raises(NonFiniteError, match=message), np.errstate(invalid="ignore"):
        engine.prefill(PROMPT)
    assert engine.cached_tokens == tuple(PROMPT[:8])
    cos_TE[10, 3] = kept
    np.testing.assert_array_equal(engine.prefill(PROMPT), expected)


def outgrow(tensors: dict[str, Tensor], name: str, size: float) -> None:
    """Make one tensor's weights larger, by their scales."""
    tensor = tensors[f"{name}.weight"]
    if not isinstance(tensor, QuantizedMatrix):
        tensors[f"{name}.weight"] = np.full_like(tensor, size)
        return
    scales = np.full_like(tensor.scales, size)
    tensors[f"{name}.weight"] = replace(tensor, scales=scales, minimums=None if tensor.minimums is None else -8 * scales)


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize(
    ("sizes", "op"),
    [
        ({"model.layers.1.input_layernorm": 3e38}, "model.layers.1.input_layernorm"),
        ({"model.layers.0.input_layernorm": 1e35, "model.layers.0.self_attn.v_proj": 1000.0}, "model.layers.0.self_attn.v_proj"),
        ({"model.layers.1.self_attn.v_proj": 4000.0}, "model.layers.1.self_attn.cache"),
        ({"model.layers.1.self_attn.k_proj": 4000.0}, "model.layers.1.self_attn.cache"),
        ({"model.layers.1.post_attention_layernorm": 1e30}, "model.layers.1.mlp.act_fn"),
        ({"model.norm": 1e37, "lm_head": 100.0}, "lm_head"),
    ],
)
def test_what_outgrows_its_type_is_found_where_it_does(
    sizes: dict[str, float], op: str, isa: str, tmp_path: Path, tokenizer_json: str
) -> None:
    """Finite weights, which no file is refused for. Unchecked, the same model runs to its end."""
    given = checkpoint(tokenizer_json)
    tensors = dict(given.tensors)
    for name, size in sizes.items():
        outgrow(tensors, name, size)
    path = tmp_path / "large.tmac2.bin"
    write_tmac2(path, replace(given, tensors=tensors))
    with pytest.raises(NonFiniteError, match=f"^{re.escape(op)} gave NaN or infinity at position 0,") as raised:
        edgellm.load(path, threads=2, isa=isa, check_finite=True).prefill(PROMPT[:1])
    assert ("kv_dtype f32 has room" in str(raised.value)) == op.endswith("cache")
    edgellm.load(path, threads=2, isa=isa).prefill(PROMPT)
