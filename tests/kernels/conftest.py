"""Kernels that this processor can't run are run by an emulator, where one is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgellm.ops import native
from tests.emulated.library import Library, emulated_isas
from tests.kernels import space


@pytest.fixture(scope="session", autouse=True)
def library() -> Iterator[Library | None]:
    """In the compiled module's place from the first test on, because it counts the threads of every pool."""
    if not emulated_isas():
        yield None
        return
    library = Library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "lib", library)
        yield library
    library.close()


@pytest.fixture(autouse=True)
def emulation(request: pytest.FixtureRequest, library: Library | None) -> Iterator[None]:
    """Arrays of a test whose instruction set is emulated lie where its kernels see them."""
    with pytest.MonkeyPatch.context() as patch:
        if library and getattr(request.node, "callspec", None) and request.node.callspec.params.get("isa") in emulated_isas():
            patch.setattr(space, "allocate", library.arena.empty)
        yield
