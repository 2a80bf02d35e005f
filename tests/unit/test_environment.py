"""The set-up: what is missing is named in one line, and what is up to date is left alone."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

import noxfile
from edgellm.ops import native
from scripts import environment, prerequisites


def test_nothing_is_missing_here() -> None:
    assert prerequisites.missing_for_build() is None
    assert prerequisites.missing_for_environment(Path()) is None


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert "no C compiler: 'no-such-compiler' is not on PATH" in str(prerequisites.missing_for_build())


def test_no_python_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert f"no Python.h in {tmp_path}" in str(prerequisites.missing_for_build())


def test_compiler_that_finds_no_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cc").write_text("#!/bin/sh\necho 'Python.h:44: fatal error: stdlib.h: no such file' >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert "(Python.h:44: fatal error: stdlib.h: no such file)" in str(prerequisites.missing_for_build())


def test_no_venv_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert "lacks its ensurepip module" in str(prerequisites.missing_for_environment(Path()))


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    assert "disk full: 0.1 GB free" in str(prerequisites.missing_for_environment(Path()))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("WARNING: Retrying ...: [Errno -3] Temporary failure in name resolution')", "no network"),
        ("ERROR: No matching distribution found for numpy>=2.0", "no network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk full"),
        ("  error: something new\nnote: more", "pip failed: error: something new"),
        ("", "pip failed: it gave no reason"),
    ],
)
def test_pips_pages_become_one_line(output: str, message: str) -> None:
    assert environment.explain(output).startswith(message)


def test_digest_sees_names_and_contents_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    a, b = tmp_path / "a.c", tmp_path / "b.c"
    a.write_text("int x;")
    b.write_text("int y;")
    before = environment.digest([a, b])
    os.utime(a, (0, 0))
    assert environment.digest([b, a]) == before
    a.write_text("int x")
    b.write_text(";int y;")
    assert environment.digest([a, b]) != before


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_another_binary_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "edgellm" / "_native.abi3.so"
    binary.parent.mkdir()
    binary.write_bytes(b"built")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "STAMP", tmp_path / "stamp.json")
    assert environment.installed_state() == {}
    wanted = {"dependencies": "d", "native": "n"}
    environment.remember(wanted)
    assert environment.installed_state() == wanted
    if change == "removed":
        binary.unlink()
    else:
        binary.write_bytes(b"built otherwise")
    assert environment.installed_state() == {"dependencies": "d"}


def test_every_instruction_set_has_its_session() -> None:
    assert noxfile.ISAS == native.ISAS


def test_every_measurement_has_its_mark(pytestconfig: pytest.Config) -> None:
    marks = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert {measurement.name for measurement in noxfile.MEASUREMENTS} <= marks
