from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock, call

import pytest

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.measure import backends
from edgellm.measure.backends import registry
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.backends.greedy import continue_greedily
from edgellm.measure.backends.llama_cpp import LlamaCppBackend
from edgellm.measure.backends.llama_cpp_models import TensorTypes, quantize, tensor_types
from edgellm.measure.backends.protocol import BackendUnavailableError
from edgellm.runtime.generate import GeneratedToken
from tests.unit.conftest import ScriptedEngine
from tests.unit.formats.synthetic import LAYERS, write_gguf


def test_edgellm_reuses_no_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would skip a prompt that it still holds; a timed prefill must not."""
    engine = MagicMock()
    make = MagicMock(return_value=engine)
    monkeypatch.setattr(backends.edgellm, "Engine", make)
    backend = EdgeLLMBackend(Path("m.tmac2.bin"), threads=2, context=8, isa="scalar")
    backend.prefill([1, 2])
    backend.prefill([1, 2])
    assert engine.mock_calls == [call.reset(), call.prefill([1, 2])] * 2
    make.assert_called_once_with(Path("m.tmac2.bin"), threads=2, context=8, fixed_team=True, isa="scalar")


def test_a_text_that_is_known_already_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MagicMock()
    engine.generate.return_value = [GeneratedToken(7, "a", 0), GeneratedToken(8, "", 0)]
    monkeypatch.setattr(backends.edgellm, "Engine", MagicMock(return_value=engine))
    backend = EdgeLLMBackend(Path("m.tmac2.bin"), threads=2, context=8)
    assert list(backend.generate("x", 2)) == ["a", ""]
    assert engine.mock_calls == [call.reset(), call.generate("x", max_tokens=2, ignore_eos=True)]


def test_greedy_continuation_decodes_only_what_it_needs(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("é!?")
    decoded = MagicMock(side_effect=engine.decode)
    backend = MagicMock(prefill=engine.prefill, decode=decoded)
    assert list(continue_greedily(backend, engine.tokenizer, "x", 3)) == ["", "é", "!"]
    assert decoded.call_count == 2


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("nothing", "the backend 'nothing' is unknown; known: edgellm, llama.cpp, "),
        ("edgellm=http://x", "takes no URL"),
    ],
)
def test_a_backend_that_there_is_not(asked: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        registry.load(asked, "m", threads=1, context=8)


def test_llama_cpp_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BackendUnavailableError, match=r"llama\.cpp is not available.*pip install"):
        LlamaCppBackend(Path("model.gguf"), threads=1, context=8)


def test_llama_cpp_that_cannot_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed")
    with pytest.raises(ModelFileError, match=r"llama\.cpp cannot load .*absent\.gguf"):
        LlamaCppBackend(tmp_path / "absent.gguf", threads=1, context=8)


def test_types_that_llama_cpp_put_in_place_of_another() -> None:
    types = TensorTypes({"Q4_0": 180, "TQ2_0": 30}, embedding="Q8_0")
    assert types.substituted("TQ2_0") == "180 of 210 matrices are Q4_0, the embedding Q8_0"
    assert TensorTypes({"Q4_0": 210}, embedding="Q8_0").substituted("Q4_0") == ""


def test_types_are_counted_in_the_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", types={"blk.0.ffn_down.weight": "Q8_0", "token_embd.weight": "F16"})
    assert tensor_types(path) == TensorTypes({"Q4_1": 7 * LAYERS - 1, "Q8_0": 1}, embedding="F16")


def test_llama_cpps_quantizer(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed")
    source = write_gguf(tmp_path / "m.gguf")
    assert tensor_types(quantize(source, "Q4_0", tmp_path / "out.gguf")).layers == {"Q4_0": 7 * LAYERS}
    with pytest.raises(ModelFileError, match=r"llama\.cpp knows no type 'Q9_9'"):
        quantize(source, "Q9_9", tmp_path / "out.gguf")
    with pytest.raises(ModelFileError, match=r"llama\.cpp cannot quantize .*absent\.gguf to Q4_0"):
        quantize(tmp_path / "absent.gguf", "Q4_0", tmp_path / "out.gguf")
