"""Accuracies of two models that are asked the same, synthetic ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edgellm
from edgellm.errors import EvaluationError
from edgellm.evaluate.cache import Cache
from edgellm.evaluate.task_score import Metric, TaskScore
from edgellm.runtime.engine import Engine
from tests.unit.evaluate.conftest import Write

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")

from scripts import scheme_accuracies
from scripts.scheme_accuracies import compared, scores


def test_answers_are_kept(synthetic_model: Path, write_records: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheme_accuracies, "TASKS", ("hellaswag", "openbookqa"))
    endings = [{"query": f"hi {i}: you", "choices": ["hi", "you hi", "12", "no"], "label": i % 4} for i in range(9)]
    options = {"text": ["12", "hi"], "label": ["A", "B"]}
    write_records("hellaswag_val.jsonl.gz", endings)
    write_records(
        "openbookqa_test.jsonl.gz", [{"question_stem": f"{i} hi", "choices": options, "answerKey": "AB"[i % 2]} for i in range(5)]
    )
    engine = edgellm.load(synthetic_model, threads=1, context=64)
    found = scores(engine, "cafe", {}, 6, Cache(tmp_path), progress=False)
    assert {task: len(score.items) for task, score in found.items()} == {"hellaswag": 6, "openbookqa": 5}
    monkeypatch.setattr(Engine, "score", None)
    assert scores(engine, "cafe", {}, 6, Cache(tmp_path), progress=False) == found


def scored(task: str, metric: str, *right: float) -> TaskScore:
    metrics = {name: Metric(sum(right) / len(right), None, higher_is_better=True, values=right) for name in {"acc", metric}}
    return TaskScore(task, 1.0, {"file": task}, 0, 9, tuple(range(len(right))), metrics)


def test_shares_differences_and_their_intervals() -> None:
    ours = {"piqa": scored("piqa", "acc_norm", 1.0, 0.0, 1.0, 1.0), "winogrande": scored("winogrande", "acc", 0.0, 1.0)}
    theirs = {"piqa": scored("piqa", "acc_norm", 1.0, 1.0, 1.0, 1.0), "winogrande": scored("winogrande", "acc", 0.0, 1.0)}
    piqa, winogrande, everything = compared(ours, theirs)
    assert (piqa["metric"], piqa["accuracy"], piqa["baseline_accuracy"], piqa["delta"]) == ("acc_norm", 0.75, 1.0, -0.25)
    assert piqa["interval"][0] < 0.75 < piqa["interval"][1]
    assert piqa["delta_interval"][0] < -0.25 < piqa["delta_interval"][1] == 0
    assert (winogrande["metric"], winogrande["delta"], winogrande["delta_interval"]) == ("acc", 0, [0, 0])
    assert (everything["task"], everything["items"], everything["values"]) == ("all", 6, [1, 0, 1, 1, 0, 1])
    assert everything["delta"] == pytest.approx(-1 / 6)


def test_other_items_are_not_compared() -> None:
    ours = {"piqa": scored("piqa", "acc", 1.0, 0.0)}
    with pytest.raises(EvaluationError, match="only answers to the same items"):
        compared(ours, {"piqa": replace(ours["piqa"], items=(3, 4))})
