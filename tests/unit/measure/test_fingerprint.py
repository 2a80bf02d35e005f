from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from edgellm.measure import fingerprint as module
from edgellm.measure import linux
from edgellm.measure.fingerprint import fingerprint, git_commit
from edgellm.runtime import machine


def test_fields() -> None:
    found = fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu_count"] == os.cpu_count()
    assert found["memory_bytes"] > 2**20
    assert found["packages"]["numpy"]
    assert set(found) - set(linux.linux()) == {
        *("version", "cpu_model", "architecture", "cpu_count", "cpus_usable", "isas", "memory_bytes"),
        *("system", "kernel", "python", "packages", "build", "git_commit"),
    }


def test_missing_things_are_null(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No /proc, no /sys, no git, no sysctl, no sysconf, nothing installed, no compiled module."""

    def absent(*_: object) -> None:
        return None

    def fails(*_: object) -> int:
        raise OSError

    for name in ("output_of", "_version", "_native"):
        monkeypatch.setattr(module, name, absent)
    for name in ("read_text", "output_of"):
        monkeypatch.setattr(machine, name, absent)
        monkeypatch.setattr(linux, name, absent)
    monkeypatch.setattr(os, "sysconf", fails)
    found = fingerprint(tmp_path)
    for name in ("cpu_model", "isas", "governor", "microcode", "hypervisor", "memory_bytes", "build", "git_commit"):
        assert found[name] is None, name
    assert set(found["packages"].values()) == {None}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/cpuinfo": "processor\t: 0\nmodel name\t: A Fine CPU @ 2 GHz\nmodel name\t: A Fine CPU @ 2 GHz"}, "A Fine CPU @ 2 GHz"),
        ({"/proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00", "/proc/device-tree/model": "Raspberry Pi 5"}, "Raspberry Pi 5"),
        ({}, None),
    ],
)
def test_cpu_model(files: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_text", files.get)
    monkeypatch.setattr(machine, "output_of", lambda *words: None)
    assert machine.cpu_model() == expected


def test_git_commit(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return subprocess.run(("git", *identity, *words), cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    assert git_commit(tmp_path) is None
    git("init")
    (tmp_path / "source").write_text("1")
    git("add", "source")
    git("commit", "-m", "One")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "source").write_text("2")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "installed").mkdir()
    assert git_commit(tmp_path / "installed") is None


def test_git_commit_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(Path(__file__).parent) is None
