"""JSON over HTTP, and streams of server-sent events, each handed on as soon as its last byte is there.

Python's own http.client speaks HTTP. It gives a line of a response once it has arrived and waits for nothing behind it, asks no proxy
(those of the environment are not for servers that are measured), follows no redirect, and needs no package; the client `openai` would
bring several and checks every event against a schema, while the clock runs. Every request has its own connection: opening one takes
tens of microseconds on the same machine, and none is ever found closed by the other side in the middle of a measurement.

Server-sent events are lines `field: value` up to an empty one, https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from edgellm.errors import InvalidRequestError
from edgellm.measure.backends.protocol import BackendFailedError

SILENCE_S = 300.0
"""How long a server may say nothing: a long prompt takes a small machine minutes."""

MESSAGE_BYTES = 1 << 20
"""The most that an event or a whole answer may have: more is no answer of a language model's, and has no end perhaps."""

END = b"[DONE]"
"""The data of the last event of an OpenAI-compatible stream."""


class RefusedError(BackendFailedError):
    """A server answered with another `status` than 200."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class JsonServer:
    """A server at a URL, to whose end the paths of requests are added. Whatever goes wrong is a BackendFailedError that names it.

    Raises InvalidRequestError for what is no URL of a server.
    """

    def __init__(self, url: str, silence_s: float = SILENCE_S) -> None:
        self.url = url.rstrip("/")
        self.host, self.port, self._secure, self._folder = _parts(self.url)
        self._silence_s = silence_s

    def get(self, path: str) -> Any:
        """What GET answers."""
        return self._whole("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """What POST answers."""
        return self._whole("POST", path, body)

    def events(self, path: str, body: Any) -> Iterator[Any]:
        """POST, and the data of each event of the answer, up to its `[DONE]`. Whoever stops early closes the connection."""
        with self._response("POST", path, body) as response:
            for data in _server_sent(response):
                if data == END:
                    return
                yield json.loads(data)
            raise BackendFailedError(f"{self.url}{path}: the stream broke off before its end ({END.decode()})")

    def _whole(self, method: str, path: str, body: Any) -> Any:
        with self._response(method, path, body) as response:
            answer = response.read(MESSAGE_BYTES + 1)
            _check_size(len(answer))
            return json.loads(answer)

    @contextmanager
    def _response(self, method: str, path: str, body: Any) -> Iterator[HTTPResponse]:
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self.host, self.port, timeout=self._silence_s)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, self._folder + path, content, {"Content-Type": "application/json"})
            with connection.getresponse() as response:  # where the server closes after it, it has the socket, not the connection
                if response.status != 200:
                    raise RefusedError(f"{self.url}{path}: {_refusal(response)}", response.status)
                yield response
        except TimeoutError as error:
            raise BackendFailedError(f"{self.url}{path}: it said nothing for {self._silence_s:g} s") from error
        except (OSError, HTTPException, ValueError, RecursionError) as error:  # the latter two of what is no JSON, or nested without end
            raise BackendFailedError(f"{self.url}{path}: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()


@contextmanager
def reading(answer: Any, of: str) -> Iterator[None]:
    """Around the lines that take an answer apart: BackendFailedError where it has not the shape that it should have."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise BackendFailedError(f"{of}: the answer is not what its protocol has: {str(answer)[:200]}") from error


def _parts(url: str) -> tuple[str, int, bool, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InvalidRequestError(f"{url!r} is no URL of a server: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise InvalidRequestError(f"{url!r} is no URL of a server; it looks like http://127.0.0.1:8080 or https://HOST/PATH")
    return host, port, parts.scheme == "https", parts.path


def _server_sent(response: HTTPResponse) -> Iterator[bytes]:
    """The data of each event; comments, which keep a connection alive, and other fields say nothing here."""
    data: list[bytes] = []
    size = 0
    while line := response.readline(MESSAGE_BYTES + 1 - size):
        size += len(line)
        _check_size(size)
        field = line.rstrip(b"\r\n")
        if field.startswith(b"data:"):
            data.append(field.removeprefix(b"data:").removeprefix(b" "))
        elif not field:
            if data:
                yield b"\n".join(data)
            data, size = [], 0


def _check_size(size: int) -> None:
    if size > MESSAGE_BYTES:
        raise ValueError(f"a message of more than {MESSAGE_BYTES} bytes")


def _refusal(response: HTTPResponse) -> str:
    """In words, why a request was refused: the message of the error that servers answer as JSON, or the first of what they say."""
    if 300 <= response.status < 400:
        return f"it sends requests elsewhere, to {response.headers['Location']}; give that URL"
    text = response.read(MESSAGE_BYTES).decode(errors="replace")
    try:
        error = json.loads(text)["error"]
        text = str(error if isinstance(error, str) else error["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        pass  # then the answer as it is
    return f"{response.status} {response.reason}: {text[:200]}"
