"""What `edgellm tune` found, as a file beside the model: NAME.tmac2.tune.json for NAME.tmac2.bin.

A JSON object:
    schema, version   "edgellm-tune", 1
    created           ISO 8601, UTC
    provenance        "measured", of every number in it
    fingerprint       machine and build: see `edgellm.measure.fingerprint`
    isa               the instruction set that was timed
    model             digest of its tensors' names, shapes and schemes
    records           for each number of threads and kind of matrix: threads, rows, cols, scheme, layout, and what led to the layout

It holds for the processor, instruction set, kernels, tensors and numbers of threads that it was measured with, and for nothing else. It is
a matter of speed alone: whatever it says, the bits are the same.
"""

from __future__ import annotations

import hashlib
import json
import platform
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import EdgeLLMWarning, UnsupportedModelError
from edgellm.formats.matrix import Scheme
from edgellm.formats.tensors import TensorSpec
from edgellm.ops import native
from edgellm.ops.interface import LAYOUTS, Layout
from edgellm.runtime.machine import cpu_model

SCHEMA, VERSION = "edgellm-tune", 1
LARGEST = 4 << 20
"""Bytes of such a file: more are no tuning."""


@dataclass(frozen=True)
class MatrixKind:
    """What the speed of a matrix's kernels depends on."""

    rows: int
    cols: int
    scheme: Scheme

    def __str__(self) -> str:
        return f"{self.rows} x {self.cols} {self.scheme}"


class _UnfitError(Exception):
    """Why a tuning does not hold here; `threads`: the numbers that it does hold for, where that is all."""

    def __init__(self, problem: str, threads: Sequence[int] = ()) -> None:
        super().__init__(problem)
        self.threads = threads


def tuning_path(model: Path) -> Path:
    """Where a model's tuning lies."""
    path = model.absolute()  # "." has no name
    return path.with_name(f"{path.name.removesuffix('.bin')}.tune.json")


def matrix_kinds(tensors: Mapping[str, TensorSpec]) -> list[MatrixKind]:
    """Every kind of matrix in a model, once."""
    return list(dict.fromkeys(kind_of(spec.shape, spec.scheme) for spec in tensors.values() if spec.scheme))


def kind_of(shape: Sequence[int], scheme: Scheme) -> MatrixKind:
    """Of a matrix of this shape (N, K)."""
    rows, cols = shape
    return MatrixKind(rows, cols, scheme)


def tunable(tensors: Mapping[str, TensorSpec]) -> list[MatrixKind]:
    """The kinds that there is a choice for."""
    return [kind for kind in matrix_kinds(tensors) if kind.scheme.family != "int8"]


def model_digest(tensors: Mapping[str, TensorSpec]) -> str:
    """Of what times depend on: names, shapes and schemes, in any order."""
    parts = sorted((name, spec.shape, spec.form) for name, spec in tensors.items())
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def tuned_layouts(model: Path, tensors: Mapping[str, TensorSpec], isa: str, threads: int) -> dict[MatrixKind, Layout] | None:
    """What the model was tuned to; None if it was not, or, with an EdgeLLMWarning that says why, if that does not hold here."""
    path, counts = tuning_path(model), {threads}
    try:
        return _layouts(_document(path), tensors, isa, threads)
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    except _UnfitError as error:
        problem = str(error)
        counts |= set(error.threads)
    again = f"edgellm tune {model} --threads {','.join(map(str, sorted(counts)))}"
    warnings.warn(
        f"{path} is not used, and kernels are chosen by default: {problem}; run `{again}` again",
        EdgeLLMWarning,
        stacklevel=4,
    )
    return None


def _document(path: Path) -> Any:
    if not stat.S_ISREG(path.stat().st_mode):
        raise _UnfitError("it is not a file")
    with path.open("rb") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise _UnfitError(f"it is larger than {LARGEST} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _UnfitError("it is not JSON, or damaged") from None


def _layouts(document: Any, tensors: Mapping[str, TensorSpec], isa: str, threads: int) -> dict[MatrixKind, Layout]:
    match document:
        case {
            "schema": str(schema),
            "version": int(version),
            "fingerprint": {"cpu_model": cpu, "architecture": architecture, "build": {"csrc_hash": csrc_hash}},
            "isa": tuned_isa,
            "model": digest,
            "records": list(records),
        } if (schema, version) == (SCHEMA, VERSION):
            pass
        case _:
            raise _UnfitError(f"it is no tuning of version {VERSION}")
    for what, then, now in (
        ("the processor was", (cpu, architecture), (cpu_model(), platform.machine())),
        ("the instruction set (EDGELLM_ISA) was", tuned_isa, isa),
        ("the kernels were", csrc_hash, native.csrc_hash()),
        ("the model was", digest, model_digest(tensors)),
    ):
        if then != now:
            raise _UnfitError(f"{what} another when it was tuned")
    layouts = [_layout(record) for record in records]
    counts = sorted({count for count, _, _ in layouts})
    if threads not in counts:
        raise _UnfitError(f"it was tuned for {', '.join(map(str, counts)) or 'no'} threads, not {threads}", counts)
    found = {kind: layout for count, kind, layout in layouts if count == threads}
    if set(found) != set(tunable(tensors)):
        raise _UnfitError("it is damaged: its records are not of the model's matrices")
    return found


def _layout(record: Any) -> tuple[int, MatrixKind, Layout]:
    """(threads, kind, layout) of a record."""
    match record:
        case {"threads": int(threads), "rows": int(rows), "cols": int(cols), "scheme": str(scheme), "layout": str(layout)} if (
            layout in LAYOUTS
        ):
            try:
                return threads, MatrixKind(rows, cols, Scheme.parse(scheme)), layout
            except UnsupportedModelError as error:
                raise _UnfitError(f"it is damaged: {error}") from error
    raise _UnfitError("it is damaged: a record lacks its threads, its matrix or its layout")
