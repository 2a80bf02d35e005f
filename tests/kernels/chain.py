"""Ops that depend on each other: a decoder layer's feed-forward block, synthetic."""

from __future__ import annotations

import numpy as np

from edgellm.formats.matrix import INT4, INT4_MIN, INT8
from edgellm.ops import native
from edgellm.ops.interface import Ops, Step
from tests.kernels.calls import Results, step
from tests.kernels.data import normal, random_matrix
from tests.kernels.space import Space

HIDDEN, FFN, LENGTH = 96, 160, 5


class Chain:
    """norm -> gate and up matmul -> swiglu -> down matmul, added to the hidden rows, which every run begins with anew."""

    OPS = ("rmsnorm_quantize", "matmul", "matmul", "gate_quantize", "matmul")
    BARRIERS = (False, True, False, True, True)  # gate and up read the same rows and write different ones

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.space = Space()
        self.start = normal(rng, LENGTH, HIDDEN)
        self.hidden = self.space.output(LENGTH, HIDDEN)
        self.normed, self.gated = self.space.activation_output(LENGTH, HIDDEN), self.space.activation_output(LENGTH, FFN)
        self.gate, self.up = self.space.output(LENGTH, FFN), self.space.output(LENGTH, FFN)
        self.weight = self.space.input(normal(rng, HIDDEN))
        matrices = (random_matrix(rng, INT4, FFN, HIDDEN), random_matrix(rng, INT4_MIN, FFN, HIDDEN), random_matrix(rng, INT8, HIDDEN, FFN))
        self.w_gate, self.w_up, self.w_down = (self.space.matrix(matrix) for matrix in matrices)
        self.step: Step = step(0, LENGTH)

    def call(self, ops: Ops) -> None:
        """The ops, once each."""
        ops.rmsnorm_quantize(self.normed, self.hidden, self.weight, 1e-5, self.step)
        ops.matmul(self.gate, self.normed, self.w_gate, self.step)
        ops.matmul(self.up, self.normed, self.w_up, self.step)
        ops.gate_quantize(self.gated, self.gate, self.up, "silu", self.step)
        ops.matmul(self.hidden, self.gated, self.w_down, self.step, accumulate=True)

    def record(self, isa: str) -> native.Plan:
        """A plan of the ops."""
        recorder = native.Recorder(isa)
        self.call(recorder)
        return recorder.plan

    def begin(self) -> None:
        """Lay the hidden rows out as every run begins with them."""
        self.hidden[:LENGTH] = self.start

    def results(self) -> Results:
        """Copies of what a run wrote, once it is certain that it wrote nothing else."""
        self.space.check()
        arrays = {"hidden": self.hidden, "gate": self.gate, "up": self.up, "codes": self.gated.codes, "scales": self.gated.scales}
        return {name: array[:LENGTH].copy() for name, array in arrays.items()}

    def replayed(self, plan: native.Plan, pool: native.Pool) -> Results:
        """What one run of a plan of these ops gives."""
        self.begin()
        plan.run(pool, self.step)
        return self.results()
