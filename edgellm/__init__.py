"""EdgeLLM: deterministic real-time language-model inference for small machines, and the instrument that measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgellm.runtime.engine import Engine, load

__version__ = "0.1.0"
__all__ = ["Engine", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the engine on first use, so that a report needs neither a compiler nor a model."""
    if name in ("Engine", "load"):
        from edgellm.runtime import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'edgellm' has no attribute {name!r}")
