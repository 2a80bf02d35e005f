"""The profile of a step: every op is in it once, with the work that its shape says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import Engine
from edgellm.errors import ContextOverflowError, InvalidRequestError
from edgellm.formats import open_checkpoint
from edgellm.formats.tensors import LazyTensors
from edgellm.measure import roofline
from edgellm.measure.roofline import StepProfile, TimedOp
from edgellm.ops import native
from edgellm.ops.interface import Step, packed_bytes
from edgellm.ops.work import RecordedOp, Work
from tests.unit.runtime.synthetic import CONFIG

LAYERS, HIDDEN, VOCAB = (CONFIG[key] for key in ("num_hidden_layers", "hidden_size", "vocab_size"))


@pytest.fixture
def engine(synthetic_model: Path) -> Engine:
    return edgellm.load(synthetic_model, threads=2, context=64)


def test_work_counts_bytes_and_operations_of_a_step() -> None:
    step = Step()
    step.set(10, 3, 1)
    assert Work((4, 32), weight_bytes=100, per_token=128).operations(step) == 2 * 128 * 3
    assert Work((4, 32), per_token=128, outputs_only=True).operations(step) == 2 * 128
    assert Work((4, 32), per_pair=5).operations(step) == 2 * 5 * (11 + 12 + 13)
    assert [Work((4, 32), per_pair=5, window=window).operations(step) for window in (1, 12, 99)] == [30, 10 * (11 + 12 + 12), 10 * 36]
    assert [Work((4, 32), bytes_per_position=2, window=window).streamed_bytes(step) for window in (1, 5, 99)] == [2 * 3, 2 * 7, 2 * 13]
    assert Work((4, 32), weight_bytes=100, bytes_per_token=7, bytes_per_position=2).streamed_bytes(step) == 100 + 7 * 3 + 2 * 13


def test_a_plan_knows_the_kernel_and_the_work_of_each_op(engine: Engine) -> None:
    assert engine.plan is not None
    ops = engine.plan.ops
    assert {op.kernel.split("__")[0] for op in ops} == {f"el_{op.name}" for op in ops}
    head = ops[-1]
    assert head.kernel == f"el_matmul__{engine.isa}"
    assert head.work.shape == f"{VOCAB} x {HIDDEN} int8-g32"
    assert head.work.outputs_only
    specs = LazyTensors.over(open_checkpoint(engine.path).tensors).specs
    packed = {name: sum(packed_bytes(spec.scheme, *spec.shape)) for name, spec in specs.items() if spec.scheme}
    table = packed.pop("model.embed_tokens.weight")
    position = 2 * LAYERS * CONFIG["num_key_value_heads"] * CONFIG["head_dim"] * 2  # keys and values, halves
    assert roofline.streamed_bytes(ops, position=9) == sum(packed.values()) + table // VOCAB + 10 * position


@pytest.mark.parametrize(("n_tokens", "position"), [(1, 5), (7, 0), (7, 5)])
def test_profile(engine: Engine, n_tokens: int, position: int) -> None:
    profiled = roofline.profile(engine, n_tokens, position, rounds=2)
    assert len(engine.cached_tokens) == position + n_tokens
    assert engine.plan is not None
    assert [timed.op for timed in profiled.ops] == engine.plan.ops
    assert all(timed.rounds_ns.shape == (2,) and timed.ns > 0 for timed in profiled.ops)
    q_proj = profiled.ops[2]
    assert q_proj.operations == 2 * n_tokens * HIDDEN * HIDDEN
    document = json.loads(json.dumps(roofline.as_json(profiled)))
    assert (document["n_tokens"], document["n_depth"], document["n_threads"]) == (n_tokens, position, 2)
    assert document["layouts_from"] == "default"
    assert "The kernels of matrices are the instruction set's default." in roofline.table(profiled)
    assert sum(op["streamed_bytes"] for op in document["ops"]) == profiled.streamed_bytes


def test_ops_of_a_kind_are_summed_and_the_slowest_come_first() -> None:
    small, large = (RecordedOp("matmul", "el_matmul__scalar", Work((rows, 32))) for rows in (16, 64))
    ops = [timed(small, [10, 12, 90], 5, 100), timed(large, [25, 75, 25], 20, 400), timed(small, [20, 18, 20], 5, 100)]
    summed = roofline.by_kernel_and_shape(ops)
    assert [(one.calls, one.rounds_ns.tolist(), one.ns, one.streamed_bytes, one.operations) for one in summed] == [
        (2, [30, 30, 110], 30, 10, 200),
        (1, [25, 75, 25], 25, 20, 400),
    ]
    steps_ns, reads_ns = np.array([50.0, 60.0, 100.0]), np.array([30.0, 30.0, 75.0])
    profiled = StepProfile("scalar", 1, 128, 1, "default", ops, steps_ns, reads_ns, read_bytes=30)
    assert profiled.share_of_read_bandwidth == pytest.approx(30 / 50)  # of 30/50, 30/60 and 75/100
    rows = roofline.table(profiled).splitlines()
    assert [cell.strip() for cell in rows[2].split("|")[1:-1]] == [
        "el_matmul__scalar",
        "16 x 32",
        "2",
        "0.00",
        "0.0",
        "0.3",
        "33%",
        "6.7",
        "28.6%",
    ]
    assert "60% of the 1.0 GB/s that can be read" in rows[-1]


def timed(op: RecordedOp, rounds_ns: list[int], streamed_bytes: int, operations: int) -> TimedOp:
    return TimedOp(op, 1, np.array(rounds_ns, np.float64), streamed_bytes, operations)


@pytest.mark.parametrize(("n_tokens", "position", "rounds"), [(0, 1, 1), (129, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_impossible_steps_are_refused(engine: Engine, n_tokens: int, position: int, rounds: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"1 to 128 tokens after 0 or more.*asked were {n_tokens} after {position}"):
        roofline.profile(engine, n_tokens, position, rounds)


@pytest.mark.parametrize("position", [64, 10**12])
def test_a_step_beyond_the_context_is_refused_before_anything_is_made_for_it(engine: Engine, position: int) -> None:
    with pytest.raises(ContextOverflowError, match=f"1 tokens after {position} don't fit into the context of 64"):
        roofline.profile(engine, 1, position, 1)


def test_eager_ops_have_no_plan(synthetic_model: Path) -> None:
    with pytest.raises(InvalidRequestError, match="runs no recorded plan"):
        roofline.profile(Engine(synthetic_model, threads=1, make_ops=native.Eager), 1, 0, 1)
