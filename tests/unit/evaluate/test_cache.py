from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.errors import EdgeLLMWarning, FetchError
from edgellm.evaluate.cache import Cache, Key

KEY = Key("a" * 64, "perplexity", 1, {"text": "naïve", "window": 1024, "ids": [1, 2]})


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "evaluations")


def test_a_value_comes_back_and_is_replaced(cache: Cache) -> None:
    assert cache.get(KEY) is None
    values: list[dict[str, list[float]]] = [{"nll": [3.25, 0.1]}, {"nll": []}]
    for value in values:
        cache.put(KEY, value)
        assert cache.get(KEY) == value
    assert Cache(cache.folder).get(KEY) == {"nll": []}


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, model="a" * 63 + "b"),
        replace(KEY, task="perplexity-2"),
        replace(KEY, version=2),
        replace(KEY, params={**KEY.params, "window": 512}),
        replace(KEY, params={}),
    ],
)
def test_other_keys_have_other_values(cache: Cache, other: Key) -> None:
    cache.put(KEY, 1)
    assert cache.get(other) is None


@pytest.mark.parametrize(
    "content",
    [b"", b'{"of": ', b"[]", b"null", b"\xff\xfe", b'{"of": {}, "value": 2}', b'{"value": 2}', b"[" * 100_000],
    ids=["empty", "cut off", "a list", "null", "no text", "another key", "no key", "deeply nested"],
)
def test_a_damaged_file_is_noted_and_computed_again(cache: Cache, content: bytes) -> None:
    cache.put(KEY, 1)
    KEY.path(cache.folder).write_bytes(content)
    with pytest.warns(EdgeLLMWarning, match="is damaged and not used; what it held is computed again"):
        assert cache.get(KEY) is None
    cache.put(KEY, 2)
    assert cache.get(KEY) == 2


def test_a_folder_in_its_place_is_noted(cache: Cache) -> None:
    KEY.path(cache.folder).mkdir(parents=True)
    with pytest.warns(EdgeLLMWarning, match="IsADirectoryError"):
        assert cache.get(KEY) is None


def test_concurrent_writers_leave_a_whole_value(cache: Cache) -> None:
    values = [[i] * 10_000 for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: cache.put(KEY, value), values))
    assert cache.get(KEY) in values
    assert [path.name for path in KEY.path(cache.folder).parent.iterdir()] == [KEY.path(cache.folder).name]


def test_a_full_disk_leaves_what_was_there(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(KEY, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FetchError, match="the disk is full; free some space, or move the cache with EDGELLM_HOME"):
        cache.put(KEY, 2)
    assert cache.get(KEY) == 1
