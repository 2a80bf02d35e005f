"""Which process of this machine listens on a port, from Linux's /proc: whose memory and time are those of a server."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"
"""How /proc/net/tcp writes the state of a socket that takes connections."""


def listening_process(host: str, port: int) -> int | None:
    """Its id; None where the host is not this machine, or nobody is found: no Linux, another user's process, or several that share it."""
    if not _is_here(host):
        return None
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _inodes(PROC / "net" / table, port)}
    owners = [int(process.name) for process in PROC.glob("[0-9]*") if not sockets.isdisjoint(_open_files(process))]
    return owners[0] if len(owners) == 1 else None


def process_name(process_id: int | None) -> str | None:
    """Of its program, so that a record shows whose figures it has: in front of a container there may be a proxy's."""
    try:
        return (PROC / str(process_id) / "comm").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _inodes(table: Path, port: int) -> list[str]:
    """Of the sockets that listen; the columns are described in Linux's Documentation/networking/proc_net_tcp.rst."""
    try:
        rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _open_files(process: Path) -> Iterator[str]:
    """What the process has open, but for what it closes just now; nothing of another user's process, or one that has ended."""
    with suppress(OSError):
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                yield str(file.readlink())
