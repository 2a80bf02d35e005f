"""Servers that say what a test gives them, piece by piece, and remember what they were asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a path answers: each piece in a chunk of its own, `pause_s` before it.

    After the last the connection is dropped unless it `ends`."""

    pieces: Sequence[bytes]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 0
    ends: bool = True


def reply(body: Any, status: int = 200) -> Answer:
    return Answer([json.dumps(body).encode()], status)


def events(*bodies: Any, end: bytes = b"data: [DONE]\n\n") -> list[bytes]:
    """A stream of server-sent events, one a piece."""
    return [*(b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies), end]


def lines(*bodies: Any) -> list[bytes]:
    """A stream of JSON, one a line and piece."""
    return [json.dumps(body).encode() + b"\n" for body in bodies]


class Replay(ThreadingHTTPServer):
    """What is asked for at a path that `answers` lacks waits in vain until the server closes."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = dict(answers)
        self.asked: list[tuple[str, Any]] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave before it has heard everything."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replay

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self, body: Any) -> None:
        self.server.asked.append((self.path, body))
        self.close_connection = True
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.server.closing.wait()
            return
        self.send_response(answer.status)
        for name, value in {"Connection": "close", "Transfer-Encoding": "chunked", **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in answer.pieces:
            time.sleep(answer.pause_s)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if answer.ends:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def replaying(answers: Mapping[str, Answer]) -> Iterator[Replay]:
    server = Replay(answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
