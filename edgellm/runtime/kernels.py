"""Which layout each matrix is packed in, and so which kernels run it: what was asked for, else what `edgellm tune` found on this machine,
else what was measured once on one machine of each kind (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import Scheme
from edgellm.formats.tensors import TensorSpec
from edgellm.ops.interface import LAYOUTS, Layout
from edgellm.runtime.tuning import MatrixKind, matrix_kinds, tuned_layouts

LOOKUP_IS_FASTER: dict[str, frozenset[str]] = {
    "neon": frozenset({"int3"}),  # by at least a tenth fewer instructions, counted emulated: no time is known
}
"""Instruction set -> the families of schemes whose sums it looks up in less time than it multiplies and adds them."""


@dataclass(frozen=True)
class LayoutChoice:
    """The layout of each kind of matrix in a model, and who chose."""

    source: Literal["asked", "tuned", "default"]
    layouts: Mapping[MatrixKind, Layout]


def choose_layouts(model: Path, tensors: Mapping[str, TensorSpec], isa: str, threads: int, asked: Layout | None = None) -> LayoutChoice:
    """For a model file and its tensors. EdgeLLMWarning: it was tuned, but not as it is to run here, so the defaults serve."""
    tuned = None if asked else tuned_layouts(model, tensors, isa, threads)
    defaults = {kind: choose_layout(kind.scheme, isa, asked) for kind in matrix_kinds(tensors)}
    return LayoutChoice("asked" if asked else "default" if tuned is None else "tuned", defaults | (tuned or {}))


def choose_layout(scheme: Scheme, isa: str, asked: Layout | None = None) -> Layout:
    """The layout asked for, else the one that is faster on the instruction set; int8 has only one."""
    if asked not in (None, *LAYOUTS):
        raise InvalidRequestError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, not {asked!r}")
    if scheme.family == "int8":
        return "multiply-add"
    return asked or ("lookup" if scheme.family in LOOKUP_IS_FASTER.get(isa, ()) else "multiply-add")
