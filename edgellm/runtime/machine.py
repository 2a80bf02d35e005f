"""The processor's name, for whoever compares or describes machines."""

from __future__ import annotations

import subprocess
from pathlib import Path


def cpu_model() -> str | None:
    """The processor's marketing name, or the board's where the processor has none; None where neither can be read."""
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip() or None
    return read_text("/proc/device-tree/model") or output_of("sysctl", "-n", "machdep.cpu.brand_string")


def read_text(path: str | Path) -> str | None:
    """A file's text without the blanks and zeros around it; None if there is none or it can't be read."""
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def output_of(*words: str) -> str | None:
    """What a command prints; None if there is no such command, or it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
