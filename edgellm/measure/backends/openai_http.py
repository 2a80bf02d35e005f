"""Any server with OpenAI's API for completions of text: llama-server, vLLM, ... https://platform.openai.com/docs/api-reference/completions

Asked for is plain text (`/completions`), because a chat template would add tokens of its own to the prompt. A piece of text per token is
what can be timed, so the pieces are counted and compared with the number of tokens that the server gives at the end of each stream.

A prompt that the server has still in its cache would take no time. Where a server is llama-server, known by what it says of itself, it is
told not to reuse any (`cache_prompt`) and not to stop at the end of a sequence (`ignore_eos`). Others have no such words in common: they
are run without a prefix cache, or get prompts whose beginnings differ, and what they say they reused is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.measure.backends.http_json import SILENCE_S, JsonServer, RefusedError, reading
from edgellm.measure.backends.listening import listening_process, process_name
from edgellm.measure.backends.protocol import BackendFailedError, BackendUnavailableError
from edgellm.measure.backends.token_count import TokenCount

NOT_FOUND = 404
LLAMA_SERVER = {"cache_prompt": False, "ignore_eos": True}
"""What llama-server alone understands."""


class OpenAIBackend:
    """`Backend` over a server that runs already, with one of the models that it lists.

    threads is None: a server has as many as it was started with, and does not say. BackendFailedError; ModelFileError names the models.
    """

    name = "openai"
    threads: int | None = None

    def __init__(self, url: str, model: str, *, context: int, silence_s: float = SILENCE_S) -> None:
        self._server = JsonServer(url, silence_s)
        self._model = model
        listed = _listed_model(self._server, model)
        self._facts: dict[str, Any] = listed.get("meta") or {}
        self._root = JsonServer(url.rstrip("/").removesuffix("/v1"), silence_s) if listed.get("owned_by") == "llamacpp" else None
        self._properties: dict[str, Any] = self._root.get("/props") if self._root else {}
        has = self._facts.get("n_ctx")
        if has is not None and has < context:
            raise InvalidRequestError(f"{url} was started for texts of {has} tokens; {context} are needed")
        self.process_id = listening_process(self._server.host, self._server.port)

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """See `Backend.generate`."""
        asked = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "seed": 0}
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        count, finished = TokenCount(self._server.url, max_tokens), None
        usage: dict[str, Any] = {}
        for event in self._events(asked | streamed | (LLAMA_SERVER if self._root else {})):
            text, reason, used = _read(event, self._server.url)
            usage, finished = used or usage, reason or finished
            if text or (text == "" and not reason):  # a piece that only says why the text ends is no token
                count.add()
                yield text
        count.check(usage.get("completion_tokens"), stopped=finished == "stop")
        if reused := (usage.get("prompt_tokens_details") or {}).get("cached_tokens"):
            raise BackendFailedError(
                f"{self._server.url} had {reused} tokens of the prompt in a cache and did not compute them; start it without a prefix cache"
            )

    def count_tokens(self, text: str) -> int | None:
        """See `Backend.count_tokens`; of the servers known here only llama-server says."""
        if self._root is None:
            return None
        answer = self._root.post("/tokenize", {"content": text})
        with reading(answer, f"{self._root.url}/tokenize"):
            return len(answer["tokens"])

    def description(self) -> dict[str, Any]:
        """See `Backend.description`; what is known comes from llama-server, others tell little more than the names of their models."""
        path = self._properties.get("model_path")
        return {
            "backend_version": f"llama-server {self._properties.get('build_info')}" if self._root else None,
            "build_commit": None,
            "csrc_hash": None,
            "isa": None,
            "model_filename": Path(path).name if path else self._model,
            "model_type": None,
            "model_size": self._facts.get("size"),
            "model_n_params": self._facts.get("n_params"),
            "settings": {
                "url": self._server.url,
                "process": process_name(self.process_id),
                "context": self._facts.get("n_ctx"),
                "prompt_cache": "off" if self._root else "as the server was started",
                "ignore_eos": self._root is not None,
            },
        }

    def unload(self) -> None:
        """See `Backend.unload`; the server keeps its model."""

    def _events(self, body: dict[str, Any]) -> Iterator[Any]:
        try:
            yield from self._server.events("/completions", body)
        except RefusedError as error:
            if error.status == NOT_FOUND:
                raise BackendFailedError(
                    f"{error}. This backend needs completions of plain text: those of chats put a template around the prompt"
                ) from error
            raise


def load(model: str, *, threads: int, context: int, url: str | None = None) -> OpenAIBackend:  # noqa: ARG001
    """See `LoadBackend`: a name that the server at `url` lists. `threads` is for whoever starts it."""
    if not url:
        raise InvalidRequestError("the backend openai is a server that runs already; say where: openai=http://127.0.0.1:8080/v1")
    try:
        return OpenAIBackend(url, model, context=context)
    except BackendFailedError as error:
        raise BackendUnavailableError(
            f"the backend openai is not available at {url}: {error}. Start one, for example: llama-server -m MODEL.gguf --port 8080"
        ) from error


def _listed_model(server: JsonServer, model: str) -> dict[str, Any]:
    listing = server.get("/models")
    with reading(listing, f"{server.url}/models"):
        models: dict[str, dict[str, Any]] = {entry["id"]: dict(entry) for entry in listing["data"]}
    if model not in models:
        raise ModelFileError(f"{server.url} has no model {model!r}; it has: {', '.join(models) or 'none'}")
    return models[model]


def _read(event: Any, server: str) -> tuple[str | None, str | None, dict[str, Any]]:
    """Of an event of a stream: its text, if it has one; why the text ends there, if it does; the counts of tokens, once they are known."""
    with reading(event, server):
        if error := event.get("error"):
            raise BackendFailedError(f"{server} broke off: {error.get('message', error)}")
        usage = dict(event.get("usage") or {})
        if not event["choices"]:
            return None, None, usage
        (choice,) = event["choices"]
        return str(choice["text"]), choice.get("finish_reason"), usage
