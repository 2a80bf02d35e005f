from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from edgellm.errors import FetchError
from edgellm.formats.atomic import replacing


def write(target: Path, error: BaseException | None = None) -> None:
    with replacing(target, "stand elsewhere") as file:
        file.write(b"new")
        if error is not None:
            raise error


def test_a_file_takes_the_place_of_the_old_one_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")
    with replacing(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken"), MemoryError()])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")
    with pytest.raises(type(error)):
        write(target, error)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "m")
    assert (tmp_path / "a" / "b" / "m").read_bytes() == b"new"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FetchError, match="m: cannot be written: the disk is full; free some space, or stand elsewhere"):
        write(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_ends_with_what_the_caller_says_can_be_done(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="file/m: cannot be written: .*; stand elsewhere$"):
        write(tmp_path / "file" / "m")


@pytest.mark.parametrize("target", ["", ".", "..", "folder"])
def test_a_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FetchError, match="cannot be written"):
        write(Path(target))
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    write(tmp_path / "m")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_what_a_killed_write_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead, alive, other = (tmp_path / f".{name}.partial" for name in ("m.1", "m.2", "n.3"))
    for path in (dead, alive, other):
        path.touch()
    with alive.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(tmp_path / "m")
    assert set(tmp_path.iterdir()) == {tmp_path / "m", alive, other}


def rewrite(target: Path, times: int) -> None:
    for _ in range(times):
        write(target)


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of what pytest has loaded
    writers = [context.Process(target=rewrite, args=(tmp_path / "m", 1000)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def test_a_file_removed_before_its_writer_locked_it_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, removed = fcntl.flock, list[Path]()

    def slow(file: BinaryIO, how: int) -> None:
        if not removed:
            removed.append(Path(file.name))
            removed[0].unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    write(tmp_path / "m")
    assert removed
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]
