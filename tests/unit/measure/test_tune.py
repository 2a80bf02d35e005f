"""Tuning: what is chosen from given times, and that what is written is what loading reads."""

from __future__ import annotations

import json
import shutil
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.errors import FetchError, InvalidRequestError
from edgellm.formats import atomic
from edgellm.formats.matrix import INT8, Scheme
from edgellm.formats.tmac2 import write_tmac2
from edgellm.measure import synthetic, tune
from edgellm.measure.tune import Comparison, compare
from edgellm.ops.interface import LAYOUTS
from edgellm.runtime.tuning import tuning_path
from tests.unit.runtime.synthetic import checkpoint


@pytest.fixture
def model(synthetic_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(synthetic_model, tmp_path / "m.tmac2.bin"))


@pytest.fixture
def lookup_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookup takes half as long, whatever it is asked for."""
    monkeypatch.setattr(tune, "_bench", lambda setting, pool, kind, layout, *_: lambda: 500 if layout == "lookup" else 1000)


@pytest.mark.parametrize(
    ("default_ns", "other_ns", "ratio", "resolution", "faster"),
    [
        ([(100, 100)] * 4, [99] * 4, 0.99, 0, True),
        ([(100, 100)] * 4, [100] * 4, 1, 0, False),
        ([(100, 110), (110, 100), (100, 90), (90, 100)], [98] * 4, 0.98, 0.11, False),
        ([(100, 110), (110, 100), (100, 90), (90, 100)], [80] * 4, 0.80, 0.11, True),
        ([(100, 100)] * 4, [300] * 4, 3, 0, False),
    ],
)
def test_only_what_is_faster_than_the_default_by_more_than_is_resolved_takes_its_place(
    default_ns: list[tuple[int, int]], other_ns: list[int], ratio: float, resolution: float, faster: bool
) -> None:
    compared = Comparison(default_ns, other_ns)
    assert compared.ratio == pytest.approx(ratio, abs=0.01)
    assert compared.resolution == pytest.approx(resolution, abs=0.02)
    assert compared.other_is_faster is faster


def test_rounds_are_default_other_default_after_one_of_warm_up() -> None:
    turns, clock = cycle(["default", "other", "default"]), count()

    def timed(name: str) -> int:
        assert next(turns) == name
        return next(clock)

    assert compare(lambda: timed("default"), lambda: timed("other"), rounds=2) == Comparison([(3, 5), (6, 8)], [4, 7])


def test_loading_reads_what_was_written(model: Path, lookup_wins: None) -> None:
    expected = edgellm.load(model, threads=2).prefill([1, 2, 3])
    document = tune.tune(model, [1, 2, 1], rounds=1, progress=False)
    assert json.loads(tuning_path(model).read_text()) == json.loads(json.dumps(document))
    assert {record["threads"] for record in document["records"]} == {1, 2}
    for threads in (1, 2):
        engine = edgellm.load(model, threads=threads)
        assert engine.layouts_from == "tuned"
        assert engine.plan is not None
        assert all(op.name == "lookup" for op in engine.plan.ops if op.work.scheme and op.name != "embed" and op.work.scheme != INT8)
        np.testing.assert_array_equal(engine.prefill([1, 2, 3]), expected)


def test_every_kind_of_matrix_is_timed_once_for_each_number_of_threads(model: Path) -> None:
    """The real benches, of a small model."""
    document = tune.tune(model, [1, 2], rounds=2, progress=False)
    seen = [(record["threads"], record["rows"], record["cols"], record["scheme"]) for record in document["records"]]
    assert len(seen) == len(set(seen))
    for record in document["records"]:
        assert record["layout"] in LAYOUTS
        assert len(record["default_ns"]) == len(record["other_ns"]) == 2
        assert min(*record["other_ns"], *np.ravel(record["default_ns"])) > 0
    assert {(record["rows"], record["scheme"]): record["sharing"] for record in document["records"]} == {
        (64, "int4-g32"): 3,
        (32, "int4-min-g32"): 3,
        (64, "int4-min-g32"): 1,  # q, k, o
        (96, "int4-g32"): 2,
        (96, "int4-min-g32"): 2,  # gate, up
    }
    rows = tune.table(document).splitlines()[2:]
    assert len(rows) == len(seen)


def test_an_interrupted_tuning_leaves_the_one_before(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning_path(model).write_text("before")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "compare_layouts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tune.tune(model, [1], rounds=1, progress=False)
    assert tuning_path(model).read_text() == "before"
    assert sorted(path.name for path in model.parent.iterdir()) == ["m.tmac2.bin", "m.tmac2.tune.json"]


def test_a_folder_that_is_not_writable_is_said_before_anything_is_timed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: Path) -> Any:
        raise PermissionError(13, "Permission denied", target)

    monkeypatch.setattr(atomic, "_partial", refuse)
    monkeypatch.setattr(tune, "compare_layouts", lambda *_: pytest.fail("timed"))
    with pytest.raises(FetchError, match="m.tmac2.tune.json: cannot be written: Permission denied; copy the model into a folder"):
        tune.tune(model, [1], rounds=1, progress=False)


def test_impossible_requests_are_refused(model: Path, tmp_path: Path, tokenizer_json: str) -> None:
    for threads, rounds in (([], 1), ([0], 1), ([1], 0)):
        with pytest.raises(InvalidRequestError, match="at least 1 thread and 1 round are needed"):
            tune.tune(model, threads, rounds, progress=False)
    given = checkpoint(tokenizer_json)
    matrices = {
        name: synthetic.random_matrix(name, Scheme.parse("int8-g32"), *tensor.shape) if len(tensor.shape) == 2 else tensor
        for name, tensor in given.tensors.items()
    }
    write_tmac2(tmp_path / "int8.tmac2.bin", type(given)(**{**vars(given), "tensors": matrices}))
    with pytest.raises(InvalidRequestError, match="there is nothing to choose: only multiply-add runs int8"):
        tune.tune(tmp_path / "int8.tmac2.bin", [1], rounds=1, progress=False)
