"""Where the time of a step goes, op by op, beside what memory could deliver: the table of `edgellm inspect --plan`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgellm.errors import InvalidRequestError
from edgellm.measure.bandwidth import SETTLE_S, ReadProbe
from edgellm.measure.bench import SEED
from edgellm.measure.statistics import percentile
from edgellm.measure.table import markdown, shown
from edgellm.ops.interface import Step
from edgellm.ops.work import RecordedOp
from edgellm.runtime.engine import Engine

CHOSEN = {"asked": "were asked for", "tuned": "were chosen by `edgellm tune`", "default": "are the instruction set's default"}
"""What `StepProfile.layouts_from` means, in words."""


@dataclass(frozen=True)
class TimedOp:
    """One op, or all that share its kernel and shape, in a step: medians over rounds, in nanoseconds."""

    op: RecordedOp
    calls: int
    ns: float
    streamed_bytes: int
    operations: int


@dataclass(frozen=True)
class StepProfile:
    """A step of `n_tokens` after `position` cached tokens.

    layouts_from:      who chose the kernels of matrices: "asked", "tuned" or "default"
    ops:               in the plan's order, each timed with a barrier after it
    step_ns:           the median time of the whole step as the engine takes it, without those barriers
    bytes_per_second:  what the same number of threads reads of as many bytes as the step streams
    """

    isa: str
    threads: int
    position: int
    n_tokens: int
    layouts_from: str
    ops: list[TimedOp]
    step_ns: float
    bytes_per_second: float

    @property
    def streamed_bytes(self) -> int:
        """Bytes of weights, keys and values that the step reads."""
        return sum(timed.streamed_bytes for timed in self.ops)

    @property
    def share_of_read_bandwidth(self) -> float:
        """The step's bytes over its time, as a share of what could be read in it."""
        return self.streamed_bytes * 1e9 / self.step_ns / self.bytes_per_second


def streamed_bytes(ops: Sequence[RecordedOp], position: int) -> int:
    """Bytes of weights, keys and values that decoding the token at this position reads."""
    step = Step()
    step.set(position, 1, 1)
    return sum(op.work.streamed_bytes(step) for op in ops)


def profile(engine: Engine, n_tokens: int, position: int, rounds: int) -> StepProfile:
    """Time a step op by op on an engine that runs a recorded plan; the cached tokens are random ones then.

    InvalidRequestError unless the tokens fit into one step and into the context.
    """
    if not 1 <= n_tokens <= engine.prefill_chunk or position < 0 or rounds < 1:
        raise InvalidRequestError(
            f"a step takes 1 to {engine.prefill_chunk} tokens after 0 or more, and at least 1 round; "
            f"asked were {n_tokens} after {position} and {rounds} rounds"
        )
    if engine.plan is None:
        raise InvalidRequestError("this engine runs no recorded plan, so there is none to profile")
    ids = np.random.default_rng(SEED).integers(engine.config.vocab_size, size=position + n_tokens).tolist()
    engine.reset()
    for end in (position, position + n_tokens)[not position :]:
        engine.prefill(ids[:end])
    step = Step()
    step.set(position, n_tokens, 1)
    recorded = engine.plan.ops
    probe = ReadProbe(sum(op.work.streamed_bytes(step) for op in recorded), engine.threads)
    step_ns, ops_ns, read_ns = [], [], []
    for _ in range(rounds):
        time.sleep(SETTLE_S)
        read_ns.append(probe.read_ns())
        time.sleep(SETTLE_S)
        ops_ns.append([ns for _, ns in engine.profile()])
        start = time.perf_counter_ns()
        engine.repeat()
        step_ns.append(time.perf_counter_ns() - start)
    ops = [
        TimedOp(op, 1, float(ns), op.work.streamed_bytes(step), op.work.operations(step))
        for op, ns in zip(recorded, np.median(ops_ns, axis=0), strict=True)
    ]
    return StepProfile(
        *(engine.isa, engine.threads, position, n_tokens, engine.layouts_from, ops),
        *(percentile(step_ns, 50), probe.bytes_per_second(read_ns)),
    )


def by_kernel_and_shape(ops: Sequence[TimedOp]) -> list[TimedOp]:
    """One sum for all ops of a kind, the slowest first."""
    groups: dict[tuple[str, str], list[TimedOp]] = {}
    for timed in ops:
        groups.setdefault((timed.op.kernel, timed.op.work.shape), []).append(timed)
    sums = [
        TimedOp(
            group[0].op, len(group), *(sum(column) for column in zip(*((t.ns, t.streamed_bytes, t.operations) for t in group), strict=True))
        )
        for group in groups.values()
    ]
    return sorted(sums, key=lambda timed: -timed.ns)


def table(profiled: StepProfile) -> str:
    """The step by kernel and shape, and its sum."""
    ops_ns = sum(timed.ns for timed in profiled.ops)
    head = ("kernel", "shape", "calls", "MB", "us", "GB/s", "of read", "GOP/s", "of step")
    rows = [
        (
            timed.op.kernel,
            timed.op.work.shape,
            str(timed.calls),
            shown(timed.streamed_bytes / 1e6, ".2f"),
            f"{timed.ns / 1e3:.1f}",
            shown(timed.streamed_bytes / timed.ns, ".1f"),
            shown(timed.streamed_bytes * 1e9 / timed.ns / profiled.bytes_per_second, ".0%"),
            shown(timed.operations / timed.ns, ".1f"),
            f"{timed.ns / ops_ns:.1%}",
        )
        for timed in by_kernel_and_shape(profiled.ops)
    ]
    return (
        f"{markdown(head, rows)}\n\n"
        f"{profiled.n_tokens} token(s) after {profiled.position}, {profiled.isa}, {profiled.threads} thread(s): "
        f"{profiled.step_ns / 1e3:.0f} us, {profiled.streamed_bytes / 1e6:.1f} MB of weights, keys and values, "
        f"{profiled.share_of_read_bandwidth:.0%} of the {profiled.bytes_per_second / 1e9:.1f} GB/s that can be read. "
        f"Each op was timed with a barrier after it: {ops_ns / 1e3:.0f} us in all. The kernels of matrices {CHOSEN[profiled.layouts_from]}."
    )


def as_json(profiled: StepProfile) -> dict[str, Any]:
    """Everything, op by op, for machines."""
    return {
        "isa": profiled.isa,
        "layouts_from": profiled.layouts_from,
        "n_threads": profiled.threads,
        "n_depth": profiled.position,
        "n_tokens": profiled.n_tokens,
        "step_ns": profiled.step_ns,
        "streamed_bytes": profiled.streamed_bytes,
        "read_bytes_per_second": profiled.bytes_per_second,
        "share_of_read_bandwidth": profiled.share_of_read_bandwidth,
        "ops": [
            {
                "op": timed.op.name,
                "kernel": timed.op.kernel,
                "shape": timed.op.work.shape,
                "ns": timed.ns,
                "streamed_bytes": timed.streamed_bytes,
                "operations": timed.operations,
            }
            for timed in profiled.ops
        ],
    }
