"""The adapter against what https://docs.ollama.com/api says that Ollama sends; no Ollama runs here."""

from __future__ import annotations

import sys
from itertools import pairwise
from time import perf_counter
from typing import Any

import pytest

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.measure.backends import registry
from edgellm.measure.backends.ollama_http import OllamaBackend
from edgellm.measure.backends.protocol import BackendFailedError, BackendUnavailableError
from tests.unit.measure.replay import Answer, lines, replaying, reply

pytest.importorskip("ollama", reason="Ollama's client is not installed")

MODEL = "smollm2:135m"
DETAILS = {"format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "134.52M", "quantization_level": "Q4_1"}
LOADED = {"model": MODEL, "created_at": "2026-01-01T00:00:00Z", "response": "", "done": True, "done_reason": "load"}
SERVER = {
    "/api/version": reply({"version": "0.40.12"}),
    "/api/show": reply({"details": DETAILS, "model_info": {"general.architecture": "llama", "general.parameter_count": 134515008}}),
    "/api/ps": reply({"models": [{"name": MODEL, "model": MODEL, "size": 300_000_000, "size_vram": 0, "details": DETAILS}]}),
}


def part(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "created_at": "2026-01-01T00:00:00Z", "response": text, "done": False} | more


def end(tokens: int, reason: str = "length", text: str = "") -> dict[str, Any]:
    return part(text, done=True, done_reason=reason, total_duration=3, prompt_eval_count=5, prompt_eval_duration=1, eval_count=tokens)


def loaded(url: str) -> OllamaBackend:
    return OllamaBackend(url, MODEL, threads=2, context=64, silence_s=0.2)


def generated(stream: Answer, max_tokens: int = 2) -> list[str]:
    with replaying(SERVER | {"/api/generate": reply(LOADED)}) as server:
        backend = loaded(server.url)
        server.answers["/api/generate"] = stream
        return list(backend.generate("Hi", max_tokens))


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([part("a"), part(" b"), end(2)], id="the end by itself"),
        pytest.param([part("a"), end(2, text=" b")], id="the end with the last token"),
        pytest.param([part("a"), part(" b"), end(3, "stop")], id="the end of the sequence is a token without text"),
    ],
)
def test_an_item_a_token(parts: list[Any]) -> None:
    assert generated(Answer(lines(*parts))) == ["a", " b"]


def test_lines_cut_anywhere() -> None:
    stream = b"".join(lines(part("a"), part(" é"), end(2)))
    assert generated(Answer([stream])) == generated(Answer([stream[at : at + 7] for at in range(0, len(stream), 7)])) == ["a", " é"]


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (Answer(lines(part("a b"), end(2))), "it sends 2 tokens in 1 pieces of text"),
        (Answer(lines(part("a"), part(" b"), part("", done=True))), "does not say how many are in its 2 pieces of text"),
        (Answer(lines(*[part("a")] * 10)), "sends more than the 2 tokens that it was asked for"),
        (Answer(lines(part("a"), {"error": "llama runner process has terminated"})), "llama runner process has terminated"),
        (Answer(lines(part("a"))), "broke off before its end"),
        (Answer(lines(part("a")), ends=False), "incomplete chunked read"),
        (Answer([]), "broke off before its end"),
        (Answer([b"{n}\n"]), "Expecting property name"),
        (Answer([b'{"response": "\xff"\n']), "Expecting"),
        (Answer([b"[1]\n"]), "no attribute 'get'"),
        (Answer(lines(part("a", response=[1]))), "response"),
        (Answer(lines(part("a")), pause_s=0.5), "timed out"),
        (reply({"error": "model requires more system memory"}, 500), "model requires more system memory"),
        (Answer([], 307, {"Location": "http://other"}), "307"),
    ],
)
def test_what_cannot_be_timed(stream: Answer, problem: str) -> None:
    with pytest.raises(BackendFailedError, match=rf"(?s)http://127\.0\.0\.1:\d+.*{problem}"):
        generated(stream)


def test_what_is_asked_for() -> None:
    with replaying(SERVER | {"/api/generate": reply(LOADED)}) as server:
        backend = loaded(server.url)
        server.answers["/api/generate"] = Answer(lines(part("a"), end(1)))
        list(backend.generate("Hi", 1))
        server.answers["/api/generate"] = reply(LOADED | {"done_reason": "unload"})
        backend.unload()
        load, generate, unload = [body for path, body in server.asked if path == "/api/generate"]
    options = {"num_ctx": 64, "num_thread": 2, "temperature": 0, "seed": 0, "repeat_penalty": 1.0}
    assert (load["model"], load["prompt"], load["options"], load["keep_alive"]) == (MODEL, "", options, -1)
    assert (generate["prompt"], generate["raw"], generate["stream"]) == ("Hi", True, True)
    assert generate["options"] == options | {"num_predict": 1}
    assert unload["keep_alive"] == 0


def test_a_record_says_that_it_was_never_tried() -> None:
    with replaying(SERVER | {"/api/generate": reply(LOADED)}) as server:
        backend = loaded(server.url)
        facts = backend.description()
        assert backend.process_id is None
    assert (facts["backend_version"], facts["model_type"], facts["model_n_params"]) == ("Ollama 0.40.12", "llama", 134515008)
    assert facts["model_size"] is None
    assert facts["settings"]["tested_against"] == "a replay of the documented wire format"
    assert (facts["settings"]["loaded_bytes"], facts["settings"]["weights"]) == (300_000_000, "Q4_1")


@pytest.mark.parametrize(
    ("server", "error", "problem"),
    [
        ({"/api/show": reply({"error": "model 'smollm2:135m' not found"}, 404)}, ModelFileError, "run: ollama pull smollm2:135m"),
        ({"/api/show": reply({"error": "no"}, 500)}, BackendUnavailableError, r"no \(status code: 500\)"),
        ({"/api/version": reply([])}, BackendUnavailableError, "is not what its protocol has"),
        ({"/api/version": reply("?", 404)}, BackendUnavailableError, "404 Not Found.*Start it with: ollama serve"),
        ({"/api/generate": reply({"error": "unable to load model"}, 500)}, BackendUnavailableError, "unable to load model"),
    ],
)
def test_what_cannot_be_loaded(server: dict[str, Answer], error: type[Exception], problem: str) -> None:
    with replaying(SERVER | {"/api/generate": reply(LOADED)} | server) as replay, pytest.raises(error, match=problem):
        registry.load(f"ollama={replay.url}", MODEL, threads=1, context=8)


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with replaying({}) as server:
        url = server.url
    with pytest.raises(BackendUnavailableError, match=f"ollama is not available at {url}.*refused.*Start it with: ollama serve"):
        registry.load(f"ollama={url}", MODEL, threads=1, context=8)
    with pytest.raises(InvalidRequestError, match="no URL of a server"):
        registry.load("ollama=somewhere", MODEL, threads=1, context=8)
    monkeypatch.setitem(sys.modules, "ollama", None)
    with pytest.raises(BackendUnavailableError, match=r"ollama is not available: .*pip install 'edgellm\[baselines\]'"):
        registry.load(f"ollama={url}", MODEL, threads=1, context=8)


def test_no_proxy_is_asked_and_no_part_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with replaying(SERVER | {"/api/generate": reply(LOADED)}) as server:
        backend = loaded(server.url)
        server.answers["/api/generate"] = Answer(lines(*[part("a")] * 10, end(10)), pause_s=0.02)
        seen_s = [perf_counter() for _ in backend.generate("Hi", 10)]
    gaps_ms = sorted((after - before) * 1e3 for before, after in pairwise(seen_s))
    assert gaps_ms[0] > 15
    assert gaps_ms[len(gaps_ms) // 2] > 19
    assert gaps_ms[2] < 30  # a busy machine makes most of them longer, but not all; a proxy or a buffer would
