"""The emulation itself: the processors are what they are said to be, and a kernel that crashes is seen."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from edgellm.ops import native
from tests.emulated.library import EXP, Library, emulated_isas
from tests.emulated.process import missing
from tests.kernels.calls import pool, step
from tests.kernels.space import Space

pytestmark = pytest.mark.skipif(not emulated_isas(), reason=missing() or "this processor runs what would be emulated")


@pytest.mark.parametrize(("processor", "runs_dotprod"), [("neon", False), ("neon_dotprod", True)])
def test_each_processor_has_its_instruction_set_and_no_other(library: Library, processor: str, runs_dotprod: bool) -> None:
    process = library.process(native.ISAS.index(processor))
    refused = {isa: process.ask(EXP, native.ISAS.index(isa), 0, 0, 0) for isa in native.ISAS}
    assert [isa for isa in native.ISAS if refused[isa] == 0] == ["scalar", "neon", "neon_dotprod"][: 2 + runs_dotprod]


def test_a_crash_is_told_and_the_next_run_goes_well(library: Library) -> None:
    x, at = np.ones((1, 32), np.float32), step(0, 1)  # not where the emulated process sees it
    out = Space().activation_output(1, 32)
    with pytest.raises(AssertionError, match="emulated neon: the process ended by SIGSEGV"):
        native.Eager("neon", pool(1)).quantize(out, x, at)
    assert native.exp(np.zeros(1, np.float32), "neon").tolist() == [1]


def test_memory_is_zeroed_before_it_is_handed_out_again(library: Library) -> None:
    gc.collect()  # a failure that was looked at keeps the arrays of its frames
    first = library.arena.empty(100)
    address = first.ctypes.data
    first[:] = 1
    del first
    again = library.arena.empty(100)
    assert again.ctypes.data == address
    assert not again.any()
