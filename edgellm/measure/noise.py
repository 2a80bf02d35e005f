"""The machine's own noise, probed between rounds: what a perfect engine would have shown on it in the same minute.

Three probes, taken together as one sample of some 25 ms (more where memory is slow), on as many threads as the engine computes with:

- *spin*: a fixed piece of work in registers, a quarter of a millisecond long, again and again on every thread at once, each time noted; as
  osnoise does (Linux, Documentation/trace/osnoise-tracer.rst). Interrupts, other processes, other guests, a changing clock: all of it
  shows as a piece that took longer. The threads are a pool like the engine's, so they start and are placed like its own.
- *read*: as many bytes as the model's weights are read, because what streams weights also shares the memory with others.
- *wake-up*: short sleeps to a set time and how late each ended, as cyclictest does. A server sleeps between requests, so that is part of
  its TTFT. It costs nothing: an engine's threads take 3 ms to fall asleep, which has to be waited for anyway. Timed in Python, as a server.

A sample, which goes into a results file as it is:

    wake_late_ns   [4]  of each wake-up, how late it was; Linux allows itself 50 us (timer slack) outside real time
    spin_ns        [threads, chunks]  each thread's pieces of work, one right after the other
    read_ns        to read `read_bytes` once; both null where nobody knows how much the model reads
    read_bytes     at most a quarter of the memory that is available
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError
from edgellm.measure.bandwidth import ReadProbe
from edgellm.measure.statistics import jitter, percentile
from edgellm.ops import native

CHUNK_NS = 250_000
"""What a piece of work is to take: short beside a token, long beside reading the clock."""

SPIN_MS = 12.0
WAKE_UPS, WAKE_UP_PERIOD_NS = 4, 1_000_000
"""Together longer than the 3 ms for which threads of a pool that have nothing to do keep offering their processors to others."""

_CALIBRATION_ITERATIONS, _CALIBRATION_CHUNKS = 20_000, 200

I64 = npt.NDArray[np.int64]
Sample = dict[str, Any]


class SpinProbe:
    """Fixed work on the pool's threads, of a length found once, so that all probes of a run do the same."""

    def __init__(self, pool: native.Pool) -> None:
        self._pool = pool
        quickest = int(native.spin(pool, _CALIBRATION_ITERATIONS, _CALIBRATION_CHUNKS).min())
        self.iterations = max(1, _CALIBRATION_ITERATIONS * CHUNK_NS // max(quickest, 1))

    def spin(self, milliseconds: float = SPIN_MS) -> I64:
        """Nanoseconds of each piece of work, int64 [threads, chunks]: as many pieces as fill the time where nothing disturbs them."""
        return native.spin(self._pool, self.iterations, max(1, round(milliseconds * 1e6 / CHUNK_NS)))


class NoiseProbe:
    """All three probes for an engine of `threads` threads whose weights are `read_bytes` (None: unknown, so nothing is read).

    It keeps so much memory resident in this process, which has to be told from an engine's own.
    """

    def __init__(self, threads: int, read_bytes: int | None = None) -> None:
        if read_bytes is not None and read_bytes < 1:
            raise InvalidRequestError(f"a probe reads at least one byte, not {read_bytes}; None where it is to read nothing")
        self._read = None if read_bytes is None else ReadProbe(min(read_bytes, available_memory_bytes() // 4), threads)
        self._spin = SpinProbe(self._read.pool if self._read else native.Pool(threads))

    def sample(self) -> Sample:
        """One sample, as in this module's description. Nothing of it runs on once this returns."""
        wake_late_ns = late_wake_ups()
        spin_ns = self._spin.spin().tolist()
        read_ns = self._read.read_ns() if self._read else None
        time.sleep(WAKE_UPS * WAKE_UP_PERIOD_NS / 1e9)  # until the pool sleeps
        return {"wake_late_ns": wake_late_ns, "spin_ns": spin_ns, "read_ns": read_ns, "read_bytes": self._read and self._read.nbytes}


def late_wake_ups() -> list[int]:
    """How many nanoseconds late each of WAKE_UPS sleeps ended; time.sleep sleeps to a set time where the system can (clock_nanosleep)."""
    late, due = [], time.perf_counter_ns()
    for _ in range(WAKE_UPS):
        due += WAKE_UP_PERIOD_NS
        time.sleep(max(due - time.perf_counter_ns(), 0) / 1e9)
        late.append(max(time.perf_counter_ns() - due, 0))
    return late


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What can be had without swapping (Linux's MemAvailable), or all physical memory where the system does not say."""
    try:
        available = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def describe(samples: Sequence[Mapping[str, Any]], piece_ns: float) -> dict[str, float | None]:
    """The figures of a run's samples, in the order taken, beside those of an engine whose token (or prompt) takes `piece_ns`.

        spin_pieces, spin_piece_ms      how many stretches of pure computing of that length there were, and how long the median one was
        spin_p99_over_p50, spin_max_over_p50, spin_std_ms       of these, as an engine's jitter
        spin_lost_share                 of the threads' time, what pieces of work took beyond the quickest one
        spin_drift                      the median piece of work in the last tenth of the samples over that in the first, less 1
        read_gb_per_s_p50               10^9 bytes a second; read_p99_over_p50: of the times that reading took
        wake_late_{p50,p99,max}_ms

    A figure is None where the samples give none: without samples, without reading, or with fewer pieces of work than one stretch takes.
    """
    if not 0 < piece_ns < math.inf:
        raise InvalidRequestError(f"a piece takes a positive, finite time, not {piece_ns} ns")
    return {
        **_describe_spin([np.array(sample["spin_ns"], np.int64) for sample in samples], piece_ns),
        **_describe_reading([sample for sample in samples if sample["read_ns"] is not None]),
        **_describe_wake_ups([late for sample in samples for late in sample["wake_late_ns"]]),
    }


def _describe_spin(spins: Sequence[I64], piece_ns: float) -> dict[str, float | None]:
    if not spins:
        return {**_describe_pieces(np.zeros(0)), "spin_lost_share": None, "spin_drift": None}
    work = np.concatenate(spins, axis=1)
    tenth = -(-len(spins) // 10)
    first, last = (float(np.median(np.concatenate(part, axis=1))) for part in (spins[:tenth], spins[-tenth:]))
    slowest = [spin.max(axis=0) for spin in spins]  # an engine's threads wait for each other after every op: what delays one delays all
    return {
        **_describe_pieces(_pieces(slowest, max(1, round(piece_ns / float(np.median(work))))) / 1e6),
        "spin_lost_share": 1 - float(work.min() * work.size / work.sum()),
        "spin_drift": last / first - 1,
    }


def _describe_pieces(pieces_ms: npt.NDArray[np.float64]) -> dict[str, float | None]:
    if not pieces_ms.size:
        return {"spin_pieces": 0, **dict.fromkeys(("spin_piece_ms", "spin_p99_over_p50", "spin_max_over_p50", "spin_std_ms"))}
    scatter = jitter(pieces_ms)
    return {
        "spin_pieces": pieces_ms.size,
        "spin_piece_ms": percentile(pieces_ms, 50),
        "spin_p99_over_p50": scatter.p99_over_p50,
        "spin_max_over_p50": scatter.max_over_p50,
        "spin_std_ms": scatter.std,
    }


def _pieces(chunks: Sequence[I64], length: int) -> I64:
    """Sums of `length` chunks, one after the other and never the same twice; they cross from a sample into the next only where a sample is
    shorter than one of them.
    """
    if length > min(map(len, chunks)):
        chunks = [np.concatenate(chunks)]
    return np.concatenate([run[: len(run) // length * length].reshape(-1, length).sum(axis=1) for run in chunks])


def _describe_reading(readings: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    if not readings:
        return {"read_gb_per_s_p50": None, "read_p99_over_p50": None}
    ns_per_byte = [sample["read_ns"] / sample["read_bytes"] for sample in readings]
    return {
        "read_gb_per_s_p50": 1 / percentile(ns_per_byte, 50),
        "read_p99_over_p50": percentile(ns_per_byte, 99) / percentile(ns_per_byte, 50),
    }


def _describe_wake_ups(late_ns: Sequence[int]) -> dict[str, float | None]:
    return {
        f"wake_late_{name}_ms": percentile(late_ns, q) / 1e6 if late_ns else None for name, q in (("p50", 50), ("p99", 99), ("max", 100))
    }
