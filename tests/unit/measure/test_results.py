from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from edgellm.measure import results
from edgellm.measure.results import ResultsError, ResultsFile, read_results


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "run.json"


def opened(path: Path) -> ResultsFile:
    return ResultsFile(path, kind="bench", fingerprint={"cpu_model": None})


def test_round_trip(path: Path) -> None:
    with opened(path) as file:
        file.append({"test": "tg64", "samples_ns": [3, 1, 2]})
    document = read_results(path)
    assert document["records"] == [{"test": "tg64", "samples_ns": [3, 1, 2]}]
    assert {key: document[key] for key in ("schema", "version", "kind", "provenance")} == {
        "schema": "edgellm-results",
        "version": 1,
        "kind": "bench",
        "provenance": "measured",
    }
    assert document["fingerprint"] == {"cpu_model": None}
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_a_list_of_numbers_takes_one_line(path: Path) -> None:
    record = {
        "itl_ns": [[1, -2], [3.5, 4e-9]],
        "odd": ["[\n 1,\n 2\n]", "x, [ 1 ]", 7],
        "mixed": [None, 1],
        "none": [],
        "deep": {"one": [8]},
    }
    with opened(path) as file:
        file.append(record)
    assert read_results(path)["records"] == [record]
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert {"[1, -2],", "[3.5, 4e-09]", '"one": [8]'} <= set(lines)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_samples_so_far_survive_an_interrupted_round(path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), opened(path) as file:  # noqa: PT012 - the block is what is tested
        record = file.append({"test": "tg64", "samples_ns": [1]})
        record["samples_ns"].append(2)
        raise stop
    assert read_results(path)["records"][0]["samples_ns"] == [1, 2]


def test_each_record_is_on_disk_before_the_next(path: Path) -> None:
    file = opened(path)
    for count in range(3):
        assert len(read_results(path)["records"]) == count
        file.append({"test": str(count)})


def test_full_disk_keeps_what_was_saved(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened(path)
    file.append({"test": "kept"})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match=r"run\.json: cannot be written: the disk is full"):
        file.append({"test": "lost"})
    assert [record["test"] for record in read_results(path)["records"]] == ["kept"]
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_what_a_killed_run_left_is_removed(path: Path) -> None:
    path.parent.mkdir()
    path.with_name(".run.json.0123456789abcdef.partial").write_text("{")
    opened(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("record", [{"x": float("nan")}, {"x": Path()}])
def test_what_json_cannot_hold_is_refused(path: Path, record: dict[str, object]) -> None:
    with pytest.raises(ResultsError, match="cannot write"):
        opened(path).append(record)


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"):
        opened(tmp_path / "file" / "run.json")


def test_unknown_provenance(path: Path) -> None:
    with pytest.raises(ResultsError, match="'guessed' is unknown; known: measured"):
        ResultsFile(path, kind="bench", fingerprint={}, provenance="guessed")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "cannot read"),
        ("{", "cannot read"),
        ("\xff", "cannot read"),
        ("[]", "not a results file"),
        ('{"version": 1}', "not a results file"),
        (json.dumps({"schema": results.SCHEMA, "version": 2}), "of version 2; this program reads version 1"),
        (json.dumps({"schema": results.SCHEMA}), "of version None"),
    ],
)
def test_reader_refuses(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ResultsError, match=problem):
        read_results(path)


def test_reader_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"nothing\.json"):
        read_results(tmp_path / "nothing.json")
