from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import EvaluationError
from edgellm.evaluate import records
from tests.unit.evaluate.conftest import Write

datasets = pytest.importorskip("datasets", reason="lm-eval is not installed: pip install 'edgellm[eval]'")

SOURCE: dict[str, Any] = {"file": "x.jsonl.gz", "fields": ["q", "a"], "hub": "owner/x"}


def test_reads_the_fields_it_was_asked_for(write_records: Write) -> None:
    write_records("x.jsonl.gz", [{"q": "é", "a": 0, "other": []}, {"a": 2, "q": ""}])
    assert records.load(**SOURCE, version=1.0)["test"].to_list() == [{"q": "é", "a": 0}, {"q": "", "a": 2}]


def test_first_records_are_examples_and_not_scored(write_records: Write) -> None:
    write_records("x.jsonl.gz", [{"q": str(i), "a": i} for i in range(5)])
    splits = records.load(**SOURCE, examples=2)
    assert [splits[name]["a"] for name in ("examples", "test")] == [[0, 1], [2, 3, 4]]


def test_records_have_the_examples_that_are_alike(write_records: Write) -> None:
    write_records("x.jsonl.gz", [{"q": "x", "a": 7}, {"q": "y", "a": 8}, {"q": "z", "a": 9}])
    write_records("dev.jsonl.gz", [{"q": "y", "a": 1}, {"q": "x", "a": 2}, {"q": "y", "a": 3}])
    test = records.load(**SOURCE, examples_file="dev.jsonl.gz", examples_by="q")["test"]
    assert [[example["a"] for example in record["examples"]] for record in test] == [[2], [1, 3], []]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no records"),
        ([{"q": "x", "a": 1}, b"{"], "line 2, is not JSON"),
        ([b"\xff\xfe"], "line 1, is not JSON"),
        ([b"[" * 100_000], "line 1, is not JSON"),
        ([[1, 2]], "line 1, is no object with the fields q, a"),
        ([{"q": "x"}], "line 1, lacks a; it has q"),
        ([{"q": None, "a": 1}], "line 1, lacks q"),
        ([{"q": "x", "a": 1}, {"q": "x", "a": {"b": 1}}], "its records do not fit together"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_lines_are_named(lines: list[Any], said: str, write_records: Write) -> None:
    path = write_records("x.jsonl.gz", lines)
    with pytest.raises(EvaluationError, match=said) as caught:
        records.load(**SOURCE)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x1f\x8b\x08\x00"], ids=["missing", "empty", "plain", "truncated"])
def test_files_that_cannot_be_read(content: bytes | None, write_records: Write) -> None:
    path = write_records("x.jsonl.gz", [])
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"x\.jsonl\.gz (cannot be read: .*EDGELLM_DATA must name|holds no records)"):
        records.load(**SOURCE)


def test_a_line_without_end_is_not_read_whole(write_records: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 10)
    write_records("x.jsonl.gz", [b'{"q": "' + b"x" * 100])
    with pytest.raises(EvaluationError, match="line 1, is not JSON"):
        records.load(**SOURCE)


def test_all_records_as_examples_leaves_nothing(write_records: Write) -> None:
    write_records("x.jsonl.gz", [{"q": "x", "a": 1}])
    with pytest.raises(EvaluationError, match="holds 1 records; 1 are needed as examples"):
        records.load(**SOURCE, examples=1)


def test_the_hub_is_asked_where_no_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELLM_DATA", raising=False)
    asked = []

    def load_dataset(*arguments: Any, **named: Any) -> Any:
        asked.append((*arguments, named["split"]))
        return datasets.Dataset.from_list([{"q": "x", "a": 1, "image": "large"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = records.load(**SOURCE, name="main", revise=lambda split: split.map(lambda record: {"a": 2}))
    assert asked == [("owner/x", "main", "test")]
    assert found["test"].to_list() == [{"q": "x", "a": 2}]


def test_what_the_hub_refuses_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELLM_DATA", raising=False)

    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        EvaluationError, match=r"owner/x cannot be fetched .* ConnectionError: no route\. Check the network, or set EDGELLM_DATA"
    ):
        records.load(**SOURCE)


def test_the_folder_comes_first(write_records: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "load_dataset", None)
    with pytest.raises(EvaluationError, match="or not be set, so that the Hugging Face hub is asked"):
        records.load(**SOURCE)
