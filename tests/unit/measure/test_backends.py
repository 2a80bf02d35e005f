from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import MagicMock, call

import pytest

import edgellm
from edgellm.errors import ModelFileError
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.backends.llama_cpp import LlamaCppBackend
from edgellm.measure.backends.protocol import BackendUnavailableError


def test_edgellm_reuses_no_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would skip a prompt that it still holds; a timed prefill must not."""
    engine = MagicMock()
    load = MagicMock(return_value=engine)
    monkeypatch.setattr(edgellm, "load", load)
    backend = EdgeLLMBackend(Path("m.tmac2.bin"), threads=2, context=8)
    backend.prefill([1, 2])
    backend.prefill([1, 2])
    assert engine.mock_calls == [call.reset(), call.prefill([1, 2])] * 2
    load.assert_called_once_with(Path("m.tmac2.bin"), threads=2, context=8)


def test_llama_cpp_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BackendUnavailableError, match=r"llama\.cpp is not available.*pip install"):
        LlamaCppBackend(Path("model.gguf"), threads=1, context=8)


def test_llama_cpp_that_cannot_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed")
    with pytest.raises(ModelFileError, match=r"llama\.cpp cannot load .*absent\.gguf"):
        LlamaCppBackend(tmp_path / "absent.gguf", threads=1, context=8)
