"""Ollama, through its own client `ollama`: completions of plain text (`raw`: no template), streamed. https://docs.ollama.com/api

This adapter was tested against a replay of the documented wire format, not against a server: none is to be had from the package indexes
that this project builds from. Its records say so (`settings.tested_against`).

Three things differ from the other backends. Ollama keeps what it computed of the last prompt, and there is no switch against it: whoever
measures the time to the first token gives prompts whose beginnings differ. It has no way to go on after the end of a sequence, so a text
may be shorter than was asked for. And it computes in a process that it starts itself, of whose id it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgellm.errors import ModelFileError
from edgellm.measure.backends.http_json import SILENCE_S, JsonServer, reading
from edgellm.measure.backends.protocol import BackendFailedError, BackendUnavailableError
from edgellm.measure.backends.token_count import TokenCount

URL = "http://127.0.0.1:11434"
"""Where Ollama listens unless it is told otherwise."""

FOREVER = -1
"""`keep_alive` of a model that stays loaded until it is unloaded."""

NOT_FOUND = 404

NO_ANSWER = (ValueError, TypeError, AttributeError, RecursionError)
"""What the client raises where an answer is no JSON, or of another shape than it should be."""


class OllamaBackend:
    """`Backend` over a server that runs already; the model is loaded, for `context` tokens, when this returns.

    BackendFailedError; ModelFileError where the server lacks the model.
    """

    name = "ollama"
    process_id: int | None = None

    def __init__(self, url: str, model: str, *, threads: int, context: int, silence_s: float = SILENCE_S) -> None:
        import httpx
        import ollama

        self._url, self._model, self.threads = url, model, threads
        self._refused = ollama.ResponseError
        self._broken = (ollama.ResponseError, httpx.HTTPError, OSError, *NO_ANSWER)
        server = JsonServer(url, silence_s)
        version = server.get("/api/version")
        with reading(version, f"{url}/api/version"):
            self._version = str(version["version"])
        self._client = ollama.Client(url, timeout=silence_s, follow_redirects=False, trust_env=False)  # no proxy of the environment's
        self._options = {"num_ctx": context, "num_thread": threads, "temperature": 0, "seed": 0, "repeat_penalty": 1.0}
        self._about = self._show()
        with self._failing():
            self._client.generate(model, "", options=self._options, keep_alive=FOREVER)

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """See `Backend.generate`, but for what the head of this file says of the prompt's cache and of the end of a sequence."""
        options = self._options | {"num_predict": max_tokens}
        count = TokenCount(self._url, max_tokens)
        with self._failing():
            for part in self._client.generate(self._model, prompt, raw=True, stream=True, options=options, keep_alive=FOREVER):
                if part.response or not part.done:
                    count.add()
                    yield part.response or ""
                if part.done:
                    count.check(part.eval_count, stopped=part.done_reason == "stop")
                    return
        raise BackendFailedError(f"{self._url}: the stream broke off before its end (done)")

    def count_tokens(self, text: str) -> None:
        """See `Backend.count_tokens`; Ollama does not say."""

    def description(self) -> dict[str, Any]:
        """See `Backend.description`; Ollama tells the size of files and of what is loaded, cache included, but not that of the weights."""
        with self._failing():
            loaded = next((each for each in self._client.ps().models if self._model in (each.name, each.model)), None)
            details = self._about.details
            return {
                "backend_version": f"Ollama {self._version}",
                "build_commit": None,
                "csrc_hash": None,
                "isa": None,
                "model_filename": self._model,
                "model_type": details.family if details else None,
                "model_size": None,
                "model_n_params": (self._about.modelinfo or {}).get("general.parameter_count"),
                "settings": {
                    "url": self._url,
                    "weights": details.quantization_level if details else None,
                    "loaded_bytes": int(loaded.size) if loaded and loaded.size is not None else None,
                    "loaded_bytes_gpu": int(loaded.size_vram) if loaded and loaded.size_vram is not None else None,
                    "prompt_cache": "cannot be turned off",
                    "ignore_eos": False,
                    "tested_against": "a replay of the documented wire format",
                    **self._options,
                },
            }

    def unload(self) -> None:
        """See `Backend.unload`."""
        with self._failing():
            self._client.generate(self._model, "", keep_alive=0)

    def _show(self) -> Any:
        try:
            with self._failing():
                return self._client.show(self._model)
        except BackendFailedError as error:
            if isinstance(error.__cause__, self._refused) and error.__cause__.status_code == NOT_FOUND:
                raise ModelFileError(f"Ollama at {self._url} has no model {self._model!r}; run: ollama pull {self._model}") from error
            raise

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except self._broken as error:
            raise BackendFailedError(f"Ollama at {self._url}: {str(error) or type(error).__name__}") from error


def load(model: str, *, threads: int, context: int, url: str | None = None) -> OllamaBackend:
    """See `LoadBackend`: a model that the server has, by Ollama's name for it; `url` is Ollama's own default unless it is given."""
    url = url or URL
    try:
        return OllamaBackend(url, model, threads=threads, context=context)
    except ImportError as error:
        raise BackendUnavailableError(
            f"the backend ollama is not available: {error}. Install its client with: pip install 'edgellm[baselines]'"
        ) from error
    except BackendFailedError as error:
        raise BackendUnavailableError(f"the backend ollama is not available at {url}: {error}. Start it with: ollama serve") from error
