"""Where a task's records come from: a file in the folder that EDGELLM_DATA names, or else the Hugging Face hub.

A file holds JSON lines, gzipped; each line is one record, an object. Task files (`tasks/*.yaml`) name `load` as their `custom_dataset`,
and say in `dataset_kwargs` what it takes, so lm-eval's own command line reads the same records.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.errors import EvaluationError

if TYPE_CHECKING:
    from datasets import Dataset

Record = dict[str, Any]

MAX_LINE_BYTES = 1 << 24
"""Of one record; an article of WikiText has 60 thousand."""


def load(
    *,
    file: str,
    fields: Sequence[str],
    hub: str,
    name: str | None = None,
    split: str = "test",
    revise: Callable[[Dataset], Dataset] | None = None,
    examples: int = 0,
    examples_file: str = "",
    examples_split: str = "",
    examples_by: str = "",
    **_: Any,
) -> dict[str, Dataset]:
    """A task's splits: "test", which is scored, and "examples", which prompts may show.

    file:     in the folder EDGELLM_DATA, which is all that is looked at where that is set
    fields:   what every record has
    hub, name, split: the data set on the hub, its configuration, and the split that is scored
    revise:   makes of the hub's records what the file holds
    examples: so many records at the start are examples instead of scored
    examples_file, examples_split, examples_by: the examples are all of this file, or split on the hub, and each record has a field
              `examples` of those that have the same value in this field

    lm-eval also hands over a task's metadata. Raises EvaluationError where there is no such file, or no hub, or a line is no record.
    """
    if folder := os.environ.get("EDGELLM_DATA"):
        records = _from_file(Path(folder, file), fields)
        others = _from_file(Path(folder, examples_file), fields) if examples_file else None
    else:
        records = _from_hub(hub, name, split, revise, fields)
        others = _from_hub(hub, name, examples_split, revise, fields) if examples_split else None
    if others is not None:
        return {"test": _with_examples(records, others, examples_by), "examples": others}
    if len(records) <= examples:
        raise EvaluationError(f"{file} holds {len(records)} records; {examples} are needed as examples, and more to score")
    return {"test": records.select(range(examples, len(records))), "examples": records.select(range(examples))}


def read_records(path: Path, fields: Sequence[str]) -> Iterator[Record]:
    """The records of a file, each with at least these fields; EvaluationError names the line that is wrong."""
    try:
        with gzip.open(path) as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES), b""), 1):
                yield _record(line, fields, f"{path}, line {number},")
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(
            f"{path} cannot be read: {error}; EDGELLM_DATA must name the folder that holds this file, "
            "or not be set, so that the Hugging Face hub is asked"
        ) from error


def _record(line: bytes, fields: Sequence[str], where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise EvaluationError(f"{where} is no object with the fields {', '.join(fields)}")
    if missing := [field for field in fields if record.get(field) is None]:
        raise EvaluationError(f"{where} lacks {', '.join(missing)}; it has {', '.join(record) or 'nothing'}")
    return record


def _from_file(path: Path, fields: Sequence[str]) -> Dataset:
    import datasets

    records = [{field: record[field] for field in fields} for record in read_records(path, fields)]
    if not records:
        raise EvaluationError(f"{path} holds no records")
    try:
        return datasets.Dataset.from_list(records)
    except Exception as error:  # pyarrow's, of several kinds: a field has values of different types
        raise EvaluationError(f"{path}: its records do not fit together: {error}") from error


def _from_hub(hub: str, name: str | None, split: str, revise: Callable[[Dataset], Dataset] | None, fields: Sequence[str]) -> Dataset:
    import datasets

    try:
        found: Dataset = datasets.load_dataset(hub, name, split=split)
    except Exception as error:  # the HTTP library beneath, and with it the exceptions, changes between releases
        reason = " ".join(str(error).split())
        raise EvaluationError(
            f"the data set {hub} cannot be fetched from the Hugging Face hub: {type(error).__name__}: {reason:.300}. "
            "Check the network, or set EDGELLM_DATA to a folder that holds the evaluation files"
        ) from error
    return (revise(found) if revise else found).select_columns(list(fields))


def _with_examples(records: Dataset, others: Dataset, field: str) -> Dataset:
    alike: dict[Any, list[Record]] = defaultdict(list)
    for example in others:
        alike[example[field]].append(example)
    return records.add_column("examples", [alike[value] for value in records[field]])
