"""Stands in for the compiled module: what an emulated instruction set is to run, its process runs; all else the module does itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from edgellm._native import ffi, lib

from edgellm.ops import native
from edgellm.ops.native import ISAS
from edgellm.runtime import weights, workspace
from tests.emulated.arena import Arena
from tests.emulated.process import CPUS, Process, logging, missing
from tests.kernels import space

CData = Any
RUN, EXP, ROUND_UPWARD, SCORE = range(4)  # process.c's functions


@dataclass
class _Plan:
    """What is recorded for an emulated instruction set."""

    isa: int
    ops: list[bytes] = field(default_factory=list)
    address: CData = field(default_factory=lambda: ffi.new("char *"))  # one that no other plan has


@cache
def emulated_isas() -> tuple[str, ...]:
    """Instruction sets that this processor lacks and an emulator here has."""
    return () if missing() else tuple(isa for isa in CPUS if not lib.el_isa_supported(ISAS.index(isa)))


@contextmanager
def emulating(isa: str, library: Library) -> Iterator[None]:
    """Within, engines and tests' arrays are made in memory that emulated kernels see, and engines take the instruction set."""

    class SharedArena(workspace.Arena):
        def __init__(self, nbytes: int, huge_pages: bool = False) -> None:
            self._bytes, self._used = library.arena.empty(nbytes), 0

    available = *native.isas_available(), isa
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "isas_available", lambda: available)
        patch.setattr(workspace, "Arena", SharedArena)
        patch.setattr(weights, "Arena", SharedArena)
        patch.setattr(space, "allocate", library.arena.empty)
        yield


class Library:
    """The functions that `edgellm.ops.native` and `scoring` call. Arrays that emulated kernels are given must lie in `arena`."""

    def __init__(self) -> None:
        self.arena = Arena()
        self._processes: dict[int, Process] = {}
        self._plans: dict[CData, _Plan] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def process(self, isa: int) -> Process:
        """The one that emulates an instruction set, started unless it runs."""
        if isa not in self._processes or not self._processes[isa].is_alive:
            self._processes[isa] = Process(ISAS[isa], self.arena)
        return self._processes[isa]

    def round_upward(self, isa: str, upward: bool) -> bool:
        """Set the rounding mode of the thread that runs plans there; whether it was upward before."""
        return bool(self.process(ISAS.index(isa)).ask(ROUND_UPWARD, upward))

    def instructions(self, isa: str, work: Callable[[], object], log: Path) -> int:
        """How many instructions a new process executes in all if it does this work; `log` is a file for them."""
        processes, counted = self._processes, Process(isa, self.arena, *logging(log))
        self._processes = {ISAS.index(isa): counted}
        try:
            work()
        finally:
            counted.close()
            self._processes = processes
        with log.open("rb") as lines:
            return sum(line.startswith(b"Trace") for line in lines)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            process.close()

    def el_plan_new(self, isa: int) -> CData:
        """The module's, or a stand-in."""
        if ISAS[isa] not in emulated_isas():
            return lib.el_plan_new(isa)
        plan = _Plan(isa)
        pointer = ffi.cast("el_plan *", plan.address)
        self._plans[pointer] = plan
        return pointer

    def el_plan_free(self, pointer: CData) -> None:
        """Of either kind."""
        if self._plans.pop(pointer, None) is None:
            lib.el_plan_free(pointer)

    def el_plan_append(self, pointer: CData, op: CData) -> int:
        """To either kind."""
        if pointer not in self._plans:
            return int(lib.el_plan_append(pointer, op))
        self._plans[pointer].ops.append(bytes(ffi.buffer(op)))
        return 0

    def el_plan_run(self, pointer: CData, pool: CData, step: CData, op_ns: CData) -> int:
        """Of either kind."""
        if pointer not in self._plans:
            return int(lib.el_plan_run(pointer, pool, step, op_ns))
        plan = self._plans[pointer]
        ops, at = self.arena.holding(b"".join(plan.ops)), self.arena.holding(bytes(ffi.buffer(step)))
        times = self.arena.empty(8 * len(plan.ops))
        process, timed = self.process(plan.isa), op_ns != ffi.NULL
        arguments = (ops.ctypes.data, len(plan.ops), lib.el_pool_team(pool), at.ctypes.data, times.ctypes.data if timed else 0)
        result = process.ask(RUN, plan.isa, *arguments)
        assert result == 0, f"emulated {ISAS[plan.isa]}: the plan was refused"
        if timed:
            ffi.memmove(op_ns, times, len(times))
        return result

    def el_exp(self, isa: int, x: CData, out: CData, n: int) -> int:
        """The module's, or the emulated kernels'."""
        if ISAS[isa] not in emulated_isas():
            return int(lib.el_exp(isa, x, out, n))
        source, result = self.arena.holding(bytes(ffi.buffer(x, 4 * n))), self.arena.empty(4 * n)
        answer = self.process(isa).ask(EXP, isa, source.ctypes.data, result.ctypes.data, n)
        ffi.memmove(out, result, len(result))
        return answer

    def el_score(self, isa: int, pool: CData, scores: CData) -> int:
        """The module's, or the emulated kernels'."""
        if ISAS[isa] not in emulated_isas():
            return int(lib.el_score(isa, pool, scores))
        rows = scores.rows
        logits = self.arena.holding(bytes(ffi.buffer(scores.logits, 4 * rows * scores.vocabulary)))
        targets = self.arena.holding(bytes(ffi.buffer(scores.targets, 4 * rows)))
        nll, greedy = self.arena.empty(8 * rows), self.arena.empty(rows)
        there = ffi.new("el_scores *", {"rows": rows, "vocabulary": scores.vocabulary})
        for name, array in (("logits", logits), ("targets", targets), ("nll", nll), ("greedy", greedy)):
            setattr(there, name, ffi.cast("void *", array.ctypes.data))
        at = self.arena.holding(bytes(ffi.buffer(there)))
        answer = self.process(isa).ask(SCORE, isa, lib.el_pool_team(pool), at.ctypes.data)
        ffi.memmove(scores.nll, nll, 8 * rows)
        ffi.memmove(scores.greedy, greedy, rows)
        return answer
