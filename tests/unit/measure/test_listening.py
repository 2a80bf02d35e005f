from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.measure.backends import listening
from edgellm.measure.backends.listening import listening_process, process_name

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists sockets in /proc")


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def test_who_listens(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as server:
        try:
            server.bind((address, 0))
        except OSError as error:
            pytest.skip(f"no {address} here: {error}")
        port = server.getsockname()[1]
        server.listen()
        assert listening_process(address, port) == listening_process("localhost", port) == os.getpid()
        assert listening_process("10.1.2.3", port) is listening_process("example.org", port) is None  # another machine's
        with socket.create_connection((address, port)):
            accepted, _ = server.accept()
    with accepted:
        assert listening_process("127.0.0.1", port) is None  # it talks still, but takes no connections


def test_several_that_share_a_socket() -> None:
    """Which of them computes is unknown."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = "import sys; print('here', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, pass_fds=[server.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            assert worker.stdout
            assert worker.stdout.readline() == b"here\n"
            assert listening_process("127.0.0.1", server.getsockname()[1]) is None
            worker.communicate()


def test_no_table_of_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(listening, "PROC", tmp_path)
    assert listening_process("127.0.0.1", 80) is None


def test_names() -> None:
    assert process_name(os.getpid()) == Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert process_name(None) is process_name(2**30) is None
