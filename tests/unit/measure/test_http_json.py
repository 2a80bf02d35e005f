from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure.backends.http_json import MESSAGE_BYTES, JsonServer, RefusedError
from edgellm.measure.backends.protocol import BackendFailedError
from tests.unit.measure.replay import Answer, events, replaying, reply

STREAM = b"".join(events({"n": 1}, {"n": 2}))


def heard(answer: Answer, **options: Any) -> list[Any]:
    with replaying({"/v1/stream": answer}) as server:
        return list(JsonServer(f"{server.url}/v1", **options).events("/stream", {"q": 1}))


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(events({"n": 1}, {"n": 2}), id="an event a segment"),
        pytest.param([STREAM], id="all in one segment"),
        pytest.param([STREAM[start : start + 1] for start in range(len(STREAM))], id="a byte a segment"),
        pytest.param([b": keep-alive\n\n", STREAM, b"after the end"], id="comments and an afterword"),
        pytest.param([STREAM.replace(b"\n", b"\r\n")], id="lines end with CR LF"),
        pytest.param([b"event: e\nid: 7\n" + STREAM.replace(b"data: ", b"data:")], id="other fields, no space"),
        pytest.param([b'data: {"n":\ndata: 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'], id="data on two lines"),
    ],
)
def test_events(pieces: list[bytes]) -> None:
    assert heard(Answer(pieces)) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(Answer(events({"n": 1}, end=b"")), "the stream broke off before its end", id="no end"),
        pytest.param(Answer([]), "the stream broke off before its end", id="empty"),
        pytest.param(Answer(events({"n": 1}, end=b""), ends=False), "the stream broke off before its end", id="dropped"),
        pytest.param(Answer([b'data: {"n":']), "the stream broke off before its end", id="within an event"),
        pytest.param(Answer([b"data: {n}\n\n"]), "Expecting property name", id="no JSON"),
        pytest.param(Answer([b'data: "\xff"\n\n']), "can't decode byte 0xff", id="no UTF-8"),
        pytest.param(Answer([b"data: " + b"[" * 10**5 + b"\n\n"]), "recursion", id="nested without end"),
        pytest.param(Answer([b"data: " + b"x" * MESSAGE_BYTES]), "a message of more than 1048576 bytes", id="a line without end"),
        pytest.param(Answer([b"data: x\n" * (MESSAGE_BYTES // 8 + 1)]), "a message of more than 1048576 bytes", id="lines without end"),
        pytest.param(Answer([], headers={"Transfer-Encoding": "identity", "Content-Length": "x"}), "broke off", id="no length"),
    ],
)
def test_a_stream_that_is_none(answer: Answer, problem: str) -> None:
    with pytest.raises(BackendFailedError, match=rf"http://127.0.0.1:\d+/v1/stream: .*{problem}"):
        heard(answer)


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (reply({"error": {"message": "no such model", "code": 404}}, 404), 404, "404 Not Found: no such model"),
        (reply({"error": "the slot is busy"}, 503), 503, "503 Service Unavailable: the slot is busy"),
        (Answer([b"<html>oops" + b"." * 1000], 500), 500, r"500 Internal Server Error: <html>oops\.{190}$"),
        (reply(["error"], 400), 400, r'400 Bad Request: \["error"\]'),
        (Answer([], 307, {"Location": "https://other/v1"}), 307, "it sends requests elsewhere, to https://other/v1; give that URL"),
        (Answer([], 204), 204, "204 No Content"),
    ],
)
def test_refusals(answer: Answer, status: int, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        heard(answer)
    assert refused.value.status == status


def test_a_server_that_says_nothing() -> None:
    with replaying({}) as server, pytest.raises(BackendFailedError, match=r"it said nothing for 0\.05 s"):
        JsonServer(server.url, silence_s=0.05).get("/never")
    with pytest.raises(BackendFailedError, match=r"it said nothing for 0\.05 s"):
        heard(Answer(events({"n": 1}), pause_s=0.2), silence_s=0.05)


def test_a_server_that_is_not_there() -> None:
    with replaying({}) as server:
        url = server.url
    with pytest.raises(BackendFailedError, match=f"{url}/models: .*Connection refused"):
        JsonServer(url).get("/models")


def test_whole_answers_are_limited() -> None:
    with (
        replaying({"/": Answer([b" " * (MESSAGE_BYTES + 1)])}) as server,
        pytest.raises(BackendFailedError, match="more than 1048576 bytes"),
    ):
        JsonServer(server.url).get("/")


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://[", "http://me:pw@h", "http://h?q"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no URL of a server"):
        JsonServer(url)


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert heard(Answer([STREAM])) == [{"n": 1}, {"n": 2}]


def test_what_is_sent() -> None:
    with replaying({"/root/p": reply({"a": 1})}) as server:
        asks = JsonServer(f"{server.url}/root/")
        assert asks.post("/p", {"x": "é"}) == asks.get("/p") == {"a": 1}
        assert server.asked == [("/root/p", {"x": "é"}), ("/root/p", None)]


def test_each_event_is_seen_when_it_arrives() -> None:
    """A client that waits for more, or for a buffer to fill, would see several at once and then none for long."""
    with replaying({"/": Answer(events(*range(10)), pause_s=0.02)}) as server:
        seen_s = [time.perf_counter() for _ in JsonServer(server.url).events("/", {})]
    gaps_ms = sorted((after - before) * 1e3 for before, after in pairwise(seen_s))
    assert gaps_ms[0] > 15
    assert 19 < gaps_ms[len(gaps_ms) // 2] < 30
