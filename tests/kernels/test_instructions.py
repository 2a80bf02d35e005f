"""Instructions that emulated matmul kernels take for a weight: what can be said of their speed without the hardware."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm.formats.matrix import Scheme
from edgellm.ops.interface import TILE
from tests.conftest import Report
from tests.emulated.library import Library, emulated_isas
from tests.kernels.calls import native_results
from tests.kernels.data import random_activation, random_matrix
from tests.kernels.test_matmul import Matmul

COLS = 512
MOST = {
    "neon": {"int8-g32": 0.66, "int4-g32": 0.46, "int4-min-g32": 0.49, "int2-g64": 0.49, "ternary-g64": 0.49},
    "neon_dotprod": {"int8-g32": 0.37, "int4-g32": 0.32, "int4-min-g32": 0.34, "int2-g64": 0.34, "ternary-g64": 0.34},
}
"""For one token, a tenth above what gcc 12 makes of the sources."""


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("scheme", MOST["neon"])
def test_instructions_of_a_weight(isa: str, library: Library, scheme: str, tokens: int, tmp_path: Path, report: Report) -> None:
    """The difference that more columns make: what the process does besides is in both counts."""
    if isa not in emulated_isas():
        pytest.skip("instructions are counted where they are emulated")

    def counted(cols: int) -> int:
        rng = np.random.default_rng(cols)
        call = Matmul(random_matrix(rng, Scheme.parse(scheme), TILE, cols), *random_activation(rng, tokens, cols))
        return library.instructions(isa, lambda: native_results(call, isa), tmp_path / "log")

    each = (counted(2 * COLS) - counted(COLS)) / (COLS * TILE * tokens)
    line = f"{isa}, {scheme}, tokens at once: {tokens}: {each:.3f} instructions per weight and token (emulated)"
    report("instructions", line, provenance="emulated", isa=isa, scheme=scheme, tokens=tokens, instructions_per_weight=each)
    assert each <= MOST[isa][scheme]
