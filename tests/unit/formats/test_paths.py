from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import ModelFileError
from edgellm.formats import format_of
from edgellm.formats.fetch import pull, resolve_model, resolve_source
from edgellm.formats.paths import exists, is_folder
from edgellm.quantize.convert import convert
from tests.unit.formats.synthetic import write_gguf

LONG = "n" * 300
USES = (pull, resolve_source, resolve_model, lambda name: format_of(Path(name)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose contents may not be looked at, not even by root, for whom no folder is locked."""
    folder, stat = tmp_path / "locked", Path.stat

    def refusing(path: Path, **options: Any) -> os.stat_result:
        if folder in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refusing)
    return folder


def test_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    paths = [tmp_path, tmp_path / "file", tmp_path / "none", tmp_path / "file" / "none", tmp_path / "zero\0byte"]
    assert [exists(path) for path in paths] == [True, True, False, False, False]
    assert [is_folder(path) for path in paths] == [True, False, False, False, False]


@pytest.mark.parametrize("use", USES)
def test_a_name_that_is_too_long_is_said(use: Callable[[str], object]) -> None:
    with pytest.raises(ModelFileError, match=f"{LONG}: cannot be reached: File name too long"):
        use(LONG)


@pytest.mark.parametrize("use", USES)
def test_a_locked_folder_is_said(use: Callable[[str], object], locked: Path) -> None:
    with pytest.raises(ModelFileError, match="locked/m: cannot be reached: Permission denied"):
        use(str(locked / "m"))


def test_a_locked_cache_is_said(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_HOME", str(locked))
    for use in (resolve_source, resolve_model):
        with pytest.raises(ModelFileError, match="locked/.*: cannot be reached: Permission denied"):
            use("smollm2-135m")


def test_a_destination_that_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=f"{LONG}: cannot be reached: File name too long"):
        convert(write_gguf(tmp_path / "m.gguf"), tmp_path / LONG)
