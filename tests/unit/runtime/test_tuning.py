"""A tuning beside a model chooses its kernels where it holds, is a warning where it does not, and changes no bit."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm import Engine
from edgellm.errors import EdgeLLMWarning
from edgellm.formats import open_checkpoint
from edgellm.formats.tensors import LazyTensors
from edgellm.measure.fingerprint import fingerprint
from edgellm.ops import native
from edgellm.runtime import tuning
from edgellm.runtime.kernels import choose_layouts
from edgellm.runtime.tuning import SCHEMA, VERSION, model_digest, tunable, tuning_path

Change = Callable[[Any], Any]
PROMPT = [3, 14, 15, 92, 65]


@pytest.fixture
def model(synthetic_model: Path, tmp_path: Path) -> Path:
    """A model file with nothing beside it."""
    return Path(shutil.copy(synthetic_model, tmp_path / "m.tmac2.bin"))


def tuning_of(model: Path) -> dict[str, Any]:
    """For 1 and 2 threads here: every matrix that can be is looked up."""
    tensors = LazyTensors.over(open_checkpoint(model).tensors).specs
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "fingerprint": fingerprint(),
        "isa": native.choose_isa(),
        "model": model_digest(tensors),
        "records": [
            {"threads": threads, **vars(kind) | {"scheme": str(kind.scheme)}, "layout": "lookup"}
            for threads in (1, 2)
            for kind in tunable(tensors)
        ],
    }


def kernels(engine: Engine) -> set[str]:
    """The ops that multiply matrices."""
    assert engine.plan
    return {op.name for op in engine.plan.ops} & {"matmul", "lookup"}


def test_the_file_lies_beside_the_model() -> None:
    assert tuning_path(Path("/models/m.tmac2.bin")) == Path("/models/m.tmac2.tune.json")
    assert tuning_path(Path("/models/m.Q4_0.gguf")) == Path("/models/m.Q4_0.gguf.tune.json")
    assert tuning_path(Path()).name == f"{Path.cwd().name}.tune.json"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_tuning_chooses_the_kernels_and_changes_no_bit(model: Path, threads: int) -> None:
    by_default = edgellm.load(model, threads=threads)
    tuning_path(model).write_text(json.dumps(tuning_of(model)))
    tuned = edgellm.load(model, threads=threads)
    assert (by_default.layouts_from, tuned.layouts_from) == ("default", "tuned")
    assert (kernels(by_default), kernels(tuned)) == ({"matmul"}, {"matmul", "lookup"})
    for token in PROMPT:
        np.testing.assert_array_equal(
            tuned.decode(token) if tuned.cached_tokens else tuned.prefill([token]),
            by_default.decode(token) if by_default.cached_tokens else by_default.prefill([token]),
        )


def test_what_is_asked_for_comes_first(model: Path) -> None:
    tuning_path(model).write_text("damaged, and not looked at")
    asked = edgellm.load(model, threads=1, layout="multiply-add")
    assert (asked.layouts_from, kernels(asked)) == ("asked", {"matmul"})


def changed(**values: Any) -> Change:
    """With other values for some keys."""
    return lambda document: {**document, **values}


def fingerprint_with(**values: Any) -> Change:
    return lambda document: {**document, "fingerprint": {**document["fingerprint"], **values}}


def first_record_with(**values: Any) -> Change:
    return lambda document: {**document, "records": [{**document["records"][0], **values}, *document["records"][1:]]}


MISFITS: dict[str, tuple[Change, str]] = {
    "another processor": (fingerprint_with(cpu_model="Z80"), "the processor was another"),
    "another architecture": (fingerprint_with(architecture="vax"), "the processor was another"),
    "other kernels": (fingerprint_with(build={"csrc_hash": "0" * 16}), "the kernels were another"),
    "another instruction set": (changed(isa="scalar"), r"the instruction set \(EDGELLM_ISA\) was another"),
    "another model": (changed(model="0" * 32), "the model was another"),
    "other threads": (
        lambda document: changed(records=[r for r in document["records"] if r["threads"] == 2])(document),
        "tuned for 2 threads, not 1; run `edgellm tune .*m.tmac2.bin --threads 1,2`",
    ),
    "no records": (changed(records=[]), "tuned for no threads, not 1"),
    "a later version": (changed(version=2), "no tuning of version 1"),
    "another schema": (changed(schema="edgellm-results"), "no tuning of version 1"),
    "no fingerprint": (changed(fingerprint=None), "no tuning of version 1"),
    "no object": (lambda document: [document], "no tuning of version 1"),
    "records that are none": (changed(records=[None]), "a record lacks"),
    "a layout that is none": (first_record_with(layout="table"), "a record lacks"),
    "threads that are none": (first_record_with(threads="1"), "a record lacks"),
    "a scheme that is none": (first_record_with(scheme="int5-g32"), "quantization scheme 'int5-g32' is unknown"),
    "int8 looked up": (first_record_with(scheme="int8-g32"), "records are not of the model's matrices"),
    "a matrix too few": (lambda document: changed(records=document["records"][1:])(document), "records are not of the model's matrices"),
    "a matrix of another shape": (first_record_with(rows=-1), "records are not of the model's matrices"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_tuning_that_does_not_hold_here_is_a_warning(model: Path, misfit: str) -> None:
    change, problem = MISFITS[misfit]
    tuning_path(model).write_text(json.dumps(change(tuning_of(model))))
    with pytest.warns(EdgeLLMWarning, match=problem) as caught:
        engine = edgellm.load(model, threads=1)
    assert len(caught) == 1
    assert "run `edgellm tune " in str(caught[0].message)
    assert (engine.layouts_from, kernels(engine)) == ("default", {"matmul"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not JSON"),
        (b'{"schema": "edgellm-tune", "version": 1, "rec', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5_000, "not JSON"),
        (b" " * (tuning.LARGEST + 1), "larger than"),
    ],
    ids=["empty", "truncated", "no text", "deep", "a long number", "large"],
)
def test_a_damaged_or_hostile_file_is_a_warning(model: Path, content: bytes, problem: str) -> None:
    tuning_path(model).write_bytes(content)
    with pytest.warns(EdgeLLMWarning, match=problem):
        assert edgellm.load(model, threads=1).layouts_from == "default"


def test_what_cannot_be_read_is_a_warning(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = LazyTensors.over(open_checkpoint(model).tensors).specs
    tuning_path(model).mkdir()
    with pytest.warns(EdgeLLMWarning, match="it is not a file"):
        choose_layouts(model, tensors, "scalar", 1)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(tuning, "_document", refuse)
    with pytest.warns(EdgeLLMWarning, match="it cannot be read: Permission denied"):
        choose_layouts(model, tensors, "scalar", 1)


def test_a_model_that_was_never_tuned_gives_no_warning(model: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert edgellm.load(model, threads=1).layouts_from == "default"
