"""Times the kernels that a model's matrices could be run by, and keeps what is faster on this machine: `edgellm tune`.

A kind of matrix is timed as decoding runs it: one vector is normed (and tabulated, where sums are looked up) for as many matrices as share
it in the model, and each matrix comes from memory. The layouts take turns, the default twice in each round. How the default's two
times differ says what this machine resolves at the moment, and what is faster by no more than that does not take its place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from edgellm.errors import InvalidRequestError
from edgellm.formats import open_checkpoint
from edgellm.formats.atomic import replacing
from edgellm.formats.tensors import LazyTensors, TensorSpec
from edgellm.measure import microbench
from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.microbench import WORKING_SET, Setting
from edgellm.measure.statistics import percentile
from edgellm.measure.table import markdown
from edgellm.ops import native
from edgellm.ops.interface import LAYOUTS, Layout, packed_bytes
from edgellm.runtime.kernels import choose_layout
from edgellm.runtime.realtime import bound
from edgellm.runtime.tuning import SCHEMA, VERSION, MatrixKind, kind_of, model_digest, tunable, tuning_path

SHARING = {"q_proj": 3, "k_proj": 3, "v_proj": 3, "gate_proj": 2, "up_proj": 2}
"""Matrices that are multiplied with the vector of this one, itself among them; 1 if it is not named."""

Timed = Callable[[], int]
"""Runs something and gives the nanoseconds that it took."""


@dataclass(frozen=True)
class Comparison:
    """The default and another layout in turn: nanoseconds of each round, default_ns [[first, second], ...]."""

    default_ns: Sequence[tuple[int, int]]
    other_ns: Sequence[int]

    @property
    def ratio(self) -> float:
        """The other's time over the default's: the median of the rounds."""
        return percentile([2 * other / sum(pair) for pair, other in zip(self.default_ns, self.other_ns, strict=True)], 50)

    @property
    def resolution(self) -> float:
        """How far apart the default's two times lie: the farther quartile of their ratios from 1."""
        ratios = [second / first for first, second in self.default_ns]
        return max(1 - percentile(ratios, 25), percentile(ratios, 75) - 1)

    @property
    def other_is_faster(self) -> bool:
        """By more than is resolved."""
        return self.ratio < 1 - self.resolution


def compare(default: Timed, other: Timed, rounds: int) -> Comparison:
    """Each round is the default, the other, the default; one more comes first, as a warm-up."""
    times = [(default(), other(), default()) for _ in range(1 + rounds)][1:]
    return Comparison([(first, second) for first, _, second in times], [between for _, between, _ in times])


def compare_layouts(setting: Setting, pool: native.Pool, kind: MatrixKind, sharing: int, working_set: int, rounds: int) -> dict[str, Any]:
    """A record of the tuning file: the layout of this kind of matrix, and what led to it."""
    default = choose_layout(kind.scheme, setting.isa)
    (other,) = (layout for layout in LAYOUTS if layout != default)
    first, second = (_bench(setting, pool, kind, layout, sharing, working_set) for layout in (default, other))
    compared = compare(first, second, rounds)
    return {
        "threads": setting.threads,
        **vars(kind) | {"scheme": str(kind.scheme)},
        "layout": other if compared.other_is_faster else default,
        "default": default,
        "other": other,
        "ratio": compared.ratio,
        "resolution": compared.resolution,
        "sharing": sharing,
        "calls": max(1, working_set // sum(packed_bytes(kind.scheme, kind.rows, kind.cols))),
        "default_ns": compared.default_ns,
        "other_ns": compared.other_ns,
    }


def tune(model: Path, threads: Sequence[int], rounds: int, progress: bool = True) -> dict[str, Any]:
    """Time every kind of matrix that there is a choice for, with each number of threads; write the tuning file, and give its content.

    InvalidRequestError: nothing to choose or to measure. FetchError, before anything is measured: the model's folder is not writable.
    Whatever goes wrong, and on Ctrl-C, an earlier tuning stays as it was.
    """
    tensors = LazyTensors.over(open_checkpoint(model).tensors).specs
    sharing = dict(sorted(_sharing(tensors), key=lambda pair: -pair[1]))  # the least of each kind comes last, and stays
    if not sharing:
        raise InvalidRequestError(f"{model}: there is nothing to choose: only multiply-add runs int8, and all of its matrices are")
    if not threads or min(threads) < 1 or rounds < 1:
        raise InvalidRequestError(f"at least 1 thread and 1 round are needed; asked were threads {list(threads)} and {rounds} rounds")
    isa = native.choose_isa()
    matrices = sum(sum(packed_bytes(spec.scheme, *spec.shape)) for spec in tensors.values() if spec.scheme)
    working_set, kinds = min(WORKING_SET, matrices), tunable(tensors)
    with replacing(tuning_path(model), "copy the model into a folder that you may write to, and tune it there") as file:
        records = []
        for count in dict.fromkeys(threads):
            setting, pool = Setting(isa, threads=count), native.Pool(count)
            with bound(pool.thread_ids()):  # where the system would put threads is no property of a kernel
                for kind in tqdm(kinds, desc=f"t={count}", unit="kind", disable=not progress, leave=False):
                    records.append(compare_layouts(setting, pool, kind, sharing[kind], working_set, rounds))  # noqa: PERF401
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": "measured",
            "fingerprint": fingerprint(),
            "isa": isa,
            "model": model_digest(tensors),
            "records": records,
        }
        file.write(json.dumps(document, indent=1).encode())
    return document


def table(document: Mapping[str, Any]) -> str:
    """The records: microseconds of a matrix, medians."""
    head = ("threads", "matrix", *(f"{layout}, us" for layout in LAYOUTS), "ratio", "resolved", "chosen", "")
    return markdown(head, [_row(record) for record in document["records"]])


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    us = {
        record["default"]: np.median(record["default_ns"]) / record["calls"] / 1e3,
        record["other"]: np.median(record["other_ns"]) / record["calls"] / 1e3,
    }
    return (
        str(record["threads"]),
        f"{record['rows']} x {record['cols']} {record['scheme']}",
        *(f"{us[layout]:.1f}" for layout in LAYOUTS),
        f"{record['ratio']:.2f}",
        f"{record['resolution']:.2f}",
        record["layout"],
        "as by default" if record["layout"] == record["default"] else "",
    )


def _bench(setting: Setting, pool: native.Pool, kind: MatrixKind, layout: Layout, sharing: int, working_set: int) -> Timed:
    bench = microbench.matmul(setting, kind.scheme, kind.rows, kind.cols, layout, working_set, sharing, pool)

    def timed() -> int:
        start = time.perf_counter_ns()
        bench.run()
        return time.perf_counter_ns() - start

    return timed


def _sharing(tensors: Mapping[str, TensorSpec]) -> Iterator[tuple[MatrixKind, int]]:
    for name, spec in tensors.items():
        if spec.scheme and spec.scheme.family != "int8":
            yield kind_of(spec.shape, spec.scheme), SHARING.get(name.split(".")[-2], 1)
