"""Where the time of a step goes, op by op, beside what memory could deliver: the table of `edgellm inspect --plan`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import ContextOverflowError, InvalidRequestError
from edgellm.measure.bandwidth import SETTLE_S, ReadProbe
from edgellm.measure.bench import SEED
from edgellm.measure.table import markdown, shown
from edgellm.ops.interface import Step
from edgellm.ops.work import RecordedOp
from edgellm.runtime.engine import Engine

F64 = npt.NDArray[np.float64]

CHOSEN = {"asked": "were asked for", "tuned": "were chosen by `edgellm tune`", "default": "are the instruction set's default"}
"""What `StepProfile.layouts_from` means, in words."""


@dataclass(frozen=True)
class TimedOp:
    """One op, or all that share its kernel and shape, in a step.

    rounds_ns: float64 [rounds], nanoseconds. Ops are added up round by round, because the median of each passes over every
               interruption, and the sum of such medians is less than any step takes.
    """

    op: RecordedOp
    calls: int
    rounds_ns: F64
    streamed_bytes: int
    operations: int

    @property
    def ns(self) -> float:
        """The median."""
        return float(np.median(self.rounds_ns))


@dataclass(frozen=True)
class StepProfile:
    """A step of `n_tokens` after `position` cached tokens.

    layouts_from: who chose the kernels of matrices: "asked", "tuned" or "default"
    ops:          in the plan's order, each timed with a barrier after it
    steps_ns:     float64 [rounds], the whole step as the engine takes it, without those barriers
    reads_ns:     float64 [rounds], the same number of threads reading `read_bytes`, as many as the step streams
    """

    isa: str
    threads: int
    position: int
    n_tokens: int
    layouts_from: str
    ops: list[TimedOp]
    steps_ns: F64
    reads_ns: F64
    read_bytes: int

    @property
    def step_ns(self) -> float:
        """The median."""
        return float(np.median(self.steps_ns))

    @property
    def bytes_per_second(self) -> float:
        """What the median read means."""
        return self.read_bytes * 1e9 / float(np.median(self.reads_ns))

    @property
    def streamed_bytes(self) -> int:
        """Bytes of weights, keys and values that the step reads."""
        return sum(timed.streamed_bytes for timed in self.ops)

    def share(self, nbytes: int, rounds_ns: F64) -> float:
        """Bytes over the time they took, as a share of what could be read in it: the median over rounds, each beside its own read."""
        return float(np.median(nbytes / rounds_ns * (self.reads_ns / self.read_bytes)))

    @property
    def share_of_read_bandwidth(self) -> float:
        """The step's."""
        return self.share(self.streamed_bytes, self.steps_ns)


def streamed_bytes(ops: Sequence[RecordedOp], position: int) -> int:
    """Bytes of weights, keys and values that decoding the token at this position reads."""
    step = Step()
    step.set(position, 1, 1)
    return sum(op.work.streamed_bytes(step) for op in ops)


def profile(engine: Engine, n_tokens: int, position: int, rounds: int) -> StepProfile:
    """Time a step op by op on an engine that runs a recorded plan; the cached tokens are random ones then.

    InvalidRequestError unless the tokens fit into one step, ContextOverflowError unless they fit into the context.
    """
    if not 1 <= n_tokens <= engine.prefill_chunk or position < 0 or rounds < 1:
        raise InvalidRequestError(
            f"a step takes 1 to {engine.prefill_chunk} tokens after 0 or more, and at least 1 round; "
            f"asked were {n_tokens} after {position} and {rounds} rounds"
        )
    if position + n_tokens > engine.context:
        raise ContextOverflowError(f"{n_tokens} tokens after {position} don't fit into the context of {engine.context}")
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
    steps_ns, ops_ns, reads_ns = [], [], []
    for _ in range(rounds):
        time.sleep(SETTLE_S)
        reads_ns.append(probe.read_ns())
        time.sleep(SETTLE_S)
        ops_ns.append([ns for _, ns in engine.profile()])
        start = time.perf_counter_ns()
        engine.repeat()
        steps_ns.append(time.perf_counter_ns() - start)
    ops = [
        TimedOp(op, 1, rounds_ns, op.work.streamed_bytes(step), op.work.operations(step))
        for op, rounds_ns in zip(recorded, np.transpose(ops_ns).astype(np.float64), strict=True)
    ]
    return StepProfile(
        *(engine.isa, engine.threads, position, n_tokens, engine.layouts_from, ops),
        *(np.array(steps_ns, np.float64), np.array(reads_ns, np.float64), probe.nbytes),
    )


def by_kernel_and_shape(ops: Sequence[TimedOp]) -> list[TimedOp]:
    """One sum for all ops of a kind, the slowest first."""
    groups: dict[tuple[str, str], list[TimedOp]] = {}
    for timed in ops:
        groups.setdefault((timed.op.kernel, timed.op.work.shape), []).append(timed)
    return sorted((_sum(group) for group in groups.values()), key=lambda timed: -timed.ns)


def _sum(ops: Sequence[TimedOp]) -> TimedOp:
    rounds_ns: F64 = np.sum([timed.rounds_ns for timed in ops], axis=0)
    return TimedOp(ops[0].op, len(ops), rounds_ns, sum(timed.streamed_bytes for timed in ops), sum(timed.operations for timed in ops))


def table(profiled: StepProfile) -> str:
    """The step by kernel and shape, and its sum."""
    ops_ns = _sum(profiled.ops).ns
    head = ("kernel", "shape", "calls", "MB", "us", "GB/s", "of read", "GOP/s", "of step")
    rows = [
        (
            timed.op.kernel,
            timed.op.work.shape,
            str(timed.calls),
            shown(timed.streamed_bytes / 1e6, ".2f"),
            f"{timed.ns / 1e3:.1f}",
            shown(timed.streamed_bytes / timed.ns, ".1f"),
            shown(profiled.share(timed.streamed_bytes, timed.rounds_ns), ".0%"),
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
