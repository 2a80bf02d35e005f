from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgellm.errors import ModelFileError
from edgellm.measure.backends.llama_cpp import LlamaCppBackend
from edgellm.measure.backends.protocol import BackendUnavailableError


def test_llama_cpp_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BackendUnavailableError, match=r"llama\.cpp is not available.*pip install"):
        LlamaCppBackend(Path("model.gguf"), threads=1, context=8)


def test_llama_cpp_that_cannot_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed")
    with pytest.raises(ModelFileError, match=r"llama\.cpp cannot load .*absent\.gguf"):
        LlamaCppBackend(tmp_path / "absent.gguf", threads=1, context=8)
