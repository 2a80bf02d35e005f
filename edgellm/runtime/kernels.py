"""Which layout each matrix is packed in, and so which kernels run it: measured once on one machine of each kind (docs/performance.md)."""

from __future__ import annotations

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import Scheme
from edgellm.ops.interface import LAYOUTS, Layout

LOOKUP_IS_FASTER: dict[str, frozenset[str]] = {}
"""Instruction set -> the families of schemes whose sums it looks up in less time than it multiplies and adds them."""


def choose_layout(scheme: Scheme, isa: str, asked: Layout | None = None) -> Layout:
    """The layout asked for, else the one that is faster on the instruction set; int8 has only one."""
    if asked not in (None, *LAYOUTS):
        raise InvalidRequestError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, not {asked!r}")
    if scheme.family == "int8":
        return "multiply-add"
    return asked or ("lookup" if scheme.family in LOOKUP_IS_FASTER.get(isa, ()) else "multiply-add")
