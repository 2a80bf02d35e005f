"""The backends by their names, each imported only when it is asked for: most need packages that are not everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from edgellm.errors import InvalidRequestError
from edgellm.measure.backends.protocol import Backend, LoadBackend

MODULES: Mapping[str, str] = {
    "edgellm": "edgellm",
    "llama.cpp": "llama_cpp",
    "llama-server": "llama_server",
    "ollama": "ollama_http",
    "openai": "openai_http",
    "onnxruntime": "onnxruntime",
    "litert": "litert",
}
"""The module of this folder whose `load` loads it."""


def loader(name: str) -> LoadBackend:
    """A backend's `load`, its module imported; InvalidRequestError for a name that is unknown."""
    if name not in MODULES:
        raise InvalidRequestError(f"the backend {name!r} is unknown; known: {', '.join(MODULES)}")
    load_backend: LoadBackend = import_module(f"edgellm.measure.backends.{MODULES[name]}").load
    return load_backend


def load(asked: str, model: str, *, threads: int, context: int) -> Backend:
    """Load a model on the backend `asked`: NAME, or NAME=URL for one that is a server.

    InvalidRequestError for a name that is unknown; BackendUnavailableError for one that cannot run here.
    """
    name, _, url = asked.partition("=")
    return loader(name)(model, threads=threads, context=context, url=url or None)
