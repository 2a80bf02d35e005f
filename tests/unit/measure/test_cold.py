from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from edgellm.errors import ModelFileError
from edgellm.measure.cold import cached_bytes, drop_file_cache
from edgellm.runtime.machine import output_of

SIZE = 5 * mmap.PAGESIZE + 100


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file on storage that was just written, and so is in memory."""
    kind = output_of("stat", "--file-system", "--format=%T", str(tmp_path))
    if kind in (None, "tmpfs", "ramfs"):
        pytest.skip(f"files here lie on {kind or 'an unknown file system'}, which need not be storage")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x" * SIZE)
    return path


def test_a_dropped_file_is_cold(model: Path) -> None:
    assert cached_bytes(model) == SIZE
    assert drop_file_cache(model) == 0
    assert cached_bytes(model) == 0


def test_reading_warms_what_was_read(model: Path) -> None:
    drop_file_cache(model)
    with model.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        file.seek(SIZE - 1)
        file.read(1)
    assert cached_bytes(model) == 100
    assert model.read_bytes() == b"x" * SIZE
    assert cached_bytes(model) == SIZE


def test_what_a_process_has_mapped_stays(model: Path) -> None:
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 6 * ord("x")
        assert drop_file_cache(model) == SIZE
    assert drop_file_cache(model) == 0


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert drop_file_cache(tmp_path / "empty") == 0


def test_a_file_of_another_user_that_is_not_to_be_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: model.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert drop_file_cache(model) is None


@pytest.mark.parametrize("mincore", [None, lambda *_: -1])
def test_a_system_that_does_not_say(mincore: object, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: type("Library", (), {} if mincore is None else {"mincore": mincore}))
    assert cached_bytes(model) is None


def test_a_system_that_forgets_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    assert drop_file_cache(model) == SIZE


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent can't be read: No such file"):
        drop_file_cache(tmp_path / "absent")
    with pytest.raises(ModelFileError, match="is no regular file"):
        drop_file_cache(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="pipe is no regular file"):
        cached_bytes(tmp_path / "pipe")
