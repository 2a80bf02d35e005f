"""Which layout a matrix is packed in."""

from __future__ import annotations

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import Scheme
from edgellm.ops.native import ISAS
from edgellm.runtime.kernels import LOOKUP_IS_FASTER, choose_layout

TERNARY, INT8 = Scheme.parse("ternary-g64"), Scheme.parse("int8-g32")


def test_what_is_asked_for_is_taken_where_the_scheme_has_it() -> None:
    assert choose_layout(TERNARY, "scalar", "lookup") == "lookup"
    assert choose_layout(INT8, "scalar", "lookup") == "multiply-add"


@pytest.mark.parametrize("family", ["int4", "int3", "int2", "ternary", "tritplanes2"])
def test_by_default_it_is_what_was_measured_to_be_faster(family: str) -> None:
    for name in ISAS:
        expected = "lookup" if family in LOOKUP_IS_FASTER.get(name, ()) else "multiply-add"
        assert choose_layout(Scheme.parse(f"{family}-g64"), name) == expected


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="layout must be one of 'multiply-add', 'lookup', not 'table'"):
        choose_layout(INT8, "scalar", "table")  # type: ignore[arg-type]
