from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.measure.backends import registry
from edgellm.measure.backends.openai_http import OpenAIBackend, load
from edgellm.measure.backends.protocol import BackendFailedError, BackendUnavailableError
from tests.unit.measure.replay import Answer, events, replaying, reply

OTHER = {"/v1/models": reply({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}, {"id": "m2"}]})}
LLAMA = {
    "/v1/models": reply({"data": [{"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 256, "n_params": 134515008, "size": 96576768}}]}),
    "/props": reply({"build_info": "b11434-abc", "model_path": "/models/SmolLM2.gguf"}),
    "/tokenize": reply({"tokens": [1, 2, 3]}),
}


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"object": "text_completion", "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": reason}]}


def used(tokens: int, cached: int = 0) -> dict[str, Any]:
    return {"choices": [], "usage": {"completion_tokens": tokens, "prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": cached}}}


def generated(completion: Answer, server: dict[str, Answer] = OTHER, max_tokens: int = 2) -> tuple[list[str], list[Any]]:
    """The items, and the bodies of what was asked for."""
    with replaying(server | {"/v1/completions": completion}) as replay:
        items = list(OpenAIBackend(f"{replay.url}/v1", "m", context=256, silence_s=0.2).generate("Hi", max_tokens))
        return items, [body for path, body in replay.asked if path == "/v1/completions"]


ENDS = [
    pytest.param([piece("a"), piece(" b"), piece("", "length"), used(2)], id="the end by itself, as of llama-server"),
    pytest.param([piece("a"), piece(" b", "length"), used(2)], id="the end with the last token, as of vLLM"),
    pytest.param([piece("a"), piece(" b", "length") | {"usage": used(2)["usage"]}], id="the count there as well"),
    pytest.param([piece("a"), piece(" b"), piece("", "stop"), used(3)], id="the end of the sequence is a token without text"),
    pytest.param([piece("a") | {"usage": None}, piece(" b", "stop"), used(2) | {"usage": used(2)["usage"]}], id="no counts on the way"),
]


@pytest.mark.parametrize("pieces", ENDS)
def test_an_item_a_token(pieces: Sequence[Any]) -> None:
    assert generated(Answer(events(*pieces)))[0] == ["a", " b"]


def test_a_token_that_is_part_of_a_character() -> None:
    assert generated(Answer(events(piece(""), piece("é"), used(2))))[0] == ["", "é"]


def test_what_is_asked_for() -> None:
    plain = {"model": "m", "prompt": "Hi", "max_tokens": 2, "temperature": 0, "seed": 0}
    plain |= {"stream": True, "stream_options": {"include_usage": True}}
    completion = Answer(events(piece("a"), piece(" b"), used(2)))
    assert generated(completion)[1] == [plain]
    assert generated(completion, LLAMA)[1] == [plain | {"cache_prompt": False, "ignore_eos": True}]


@pytest.mark.parametrize(
    ("completion", "problem"),
    [
        (Answer(events(piece("a b"), piece("", "length"), used(2))), "it sends 2 tokens in 1 pieces of text"),
        (Answer(events(piece("a"), piece(" b"), used(1))), "it sends 1 tokens in 2 pieces of text"),
        (Answer(events(piece("a"), piece("", "length"), used(2))), "it sends 2 tokens in 1 pieces of text"),
        (Answer(events(piece("a"), piece("b"))), "does not say how many are in its 2 pieces of text"),
        (Answer(events(*[piece("a")] * 10)), "sends more than the 2 tokens that it was asked for"),
        (Answer(events(piece("a"), piece("b"), used(2, cached=4))), "had 4 tokens of the prompt in a cache"),
        (Answer(events(piece("a"), {"error": {"code": 500, "message": "out of memory"}})), "broke off: out of memory"),
        (Answer(events(piece("a"), end=b""), ends=False), "broke off before its end"),
        (Answer(events({"choices": [{"delta": {"content": "a"}}]})), "the answer is not what its protocol has"),
        (Answer(events(piece("a") | {"choices": [1, 2]})), "the answer is not what its protocol has"),
        (Answer(events([])), "the answer is not what its protocol has"),
        (reply({"error": {"message": "unknown field stream_options"}}, 400), "400 Bad Request: unknown field stream_options"),
        (reply({"detail": "Not Found"}, 404), "404 Not Found.*This backend needs completions of plain text"),
    ],
)
def test_what_cannot_be_timed(completion: Answer, problem: str) -> None:
    with pytest.raises(BackendFailedError, match=problem):
        generated(completion)


def test_who_stops_early_leaves_no_connection() -> None:
    with replaying(OTHER | {"/v1/completions": Answer(events(piece("a"), piece("b"), used(2)))}) as server:
        items = OpenAIBackend(f"{server.url}/v1", "m", context=1).generate("Hi", 2)
        assert next(iter(items)) == "a"
        del items  # an open socket would be a ResourceWarning


def test_llama_server_tells_much() -> None:
    with replaying(LLAMA) as server:
        backend = OpenAIBackend(f"{server.url}/v1/", "m", context=256)
        assert backend.count_tokens("x y z") == 3
        assert backend.process_id == os.getpid()
        facts = backend.description()
        assert (facts["backend_version"], facts["model_filename"]) == ("llama-server b11434-abc", "SmolLM2.gguf")
        assert (facts["model_size"], facts["model_n_params"]) == (96576768, 134515008)
        assert (facts["settings"]["prompt_cache"], facts["settings"]["context"]) == ("off", 256)
        backend.unload()


def test_other_servers_tell_little() -> None:
    with replaying(OTHER) as server:
        backend = OpenAIBackend(f"{server.url}/v1", "m2", context=256)
        assert backend.count_tokens("x y z") is backend.threads is None
        facts = backend.description()
        assert facts["model_filename"] == "m2"
        assert facts["backend_version"] is facts["model_size"] is facts["model_n_params"] is None
        assert facts["settings"]["prompt_cache"] == "as the server was started"


@pytest.mark.parametrize(
    ("server", "model", "context", "error", "problem"),
    [
        (OTHER, "absent", 1, ModelFileError, "has no model 'absent'; it has: m, m2"),
        ({"/v1/models": reply({"data": []})}, "m", 1, ModelFileError, "it has: none"),
        (LLAMA, "m", 257, InvalidRequestError, "was started for texts of 256 tokens; 257 are needed"),
        ({"/v1/models": reply({"models": []})}, "m", 1, BackendUnavailableError, "is not what its protocol has"),
        (
            {"/v1/models": reply("?", 404)},
            "m",
            1,
            BackendUnavailableError,
            "404 Not Found.*Start one, for example: llama-server",
        ),
        (LLAMA | {"/props": reply({}, 500)}, "m", 1, BackendUnavailableError, "/props: 500 Internal Server Error"),
    ],
)
def test_what_cannot_be_loaded(server: dict[str, Answer], model: str, context: int, error: type[Exception], problem: str) -> None:
    with replaying(server) as replay, pytest.raises(error, match=problem):
        registry.load(f"openai={replay.url}/v1", model, threads=1, context=context)


def test_no_server() -> None:
    with replaying({}) as server:
        url = server.url
    with pytest.raises(BackendUnavailableError, match=f"{url}.*refused.*Start one, for example: llama-server -m MODEL.gguf --port 8080"):
        load("m", threads=1, context=1, url=url)
    with pytest.raises(InvalidRequestError, match=r"say where: openai=http://127\.0\.0\.1:8080/v1"):
        load("m", threads=1, context=1)
