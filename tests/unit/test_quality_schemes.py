"""The comparison of schemes, on a small model whose weights are random."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.evaluate import data
from edgellm.evaluate.cache import Cache
from edgellm.evaluate.scorer import LogitsScorer
from edgellm.measure import bench
from edgellm.runtime.dense_engine import BASELINE, DenseEngine
from edgellm.runtime.engine import Engine
from scripts import quality_schemes
from scripts.quality_schemes import SCHEMES, Scheme, Suite, chosen, loaded, measured, row


@pytest.fixture
def suite(synthetic_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    texts = {"wikitext2_test": "the quick brown fox " * 40, "tinyshakespeare": "to be or not to be " * 40}
    monkeypatch.setattr(data, "text", texts.__getitem__)
    for name, value in (("WINDOW", 16), ("CONTEXT", 17), ("DIVERGENCE_WINDOW", 16), ("SPEED_ROUNDS", 2)):
        monkeypatch.setattr(quality_schemes, name, value)
    monkeypatch.setattr(bench.Case, "run", lambda _, backend: [1_000_000])
    made = Suite(synthetic_model, windows=3, items=0)
    made.cache = Cache(tmp_path)
    return made


def test_everything_of_a_scheme(suite: Suite, synthetic_model: Path) -> None:
    record = measured(suite, Scheme("keep"), synthetic_model, 1)
    assert [(each["text"], each["bos"]) for each in record["perplexity"]] == [
        (text, bos) for text in quality_schemes.TEXTS for bos in (False, True)
    ]
    for each in record["perplexity"]:
        assert each["tokens"] == 3 * 15
        assert each["ratio"] == pytest.approx(each["ppl"] / each["baseline_ppl"])
        assert each["ratio"] == pytest.approx(1, abs=0.05)  # int8 activations are all that differs
    for each in record["divergence"]:
        assert 0 < each["kl_mean"]["value"] < 0.01
        assert each["tokens"] == quality_schemes.DIVERGENCE_WINDOWS * 16
    assert record["accuracy"] == {"tasks": None, "why_not": "left out: --items 0"}
    assert record["energy"]["joules_per_token"] is None
    assert record["layers_bits_per_weight"] > 4
    assert len(row(record)) == len(quality_schemes.HEAD)


def test_a_run_that_was_stopped_goes_on(suite: Suite, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(Scheme("keep"), synthetic_model, 1) as (subject, _):
        whole = suite.perplexities(subject), suite.divergences(subject)
    again = Suite(synthetic_model, windows=3, items=0)
    again.cache = suite.cache
    monkeypatch.setattr(quality_schemes, "DenseEngine", None)  # nothing is computed again
    stopped = quality_schemes.Subject(subject.name, subject.path, subject.arithmetic, None, None, None)  # type: ignore[arg-type]
    assert (again.perplexities(stopped), again.divergences(stopped)) == whole


def test_accuracies_are_of_the_same_items(suite: Suite, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = pytest.importorskip("scripts.scheme_accuracies", reason="lm-eval is not installed: pip install 'edgellm[eval]'")
    asked: list[tuple[type, dict[str, object], int]] = []
    monkeypatch.setattr(accuracies, "scores", lambda engine, _, settings, items, *__, **___: asked.append((type(engine), settings, items)))
    monkeypatch.setattr(accuracies, "compared", lambda *scores: list(scores))
    suite.items = 6
    with loaded(Scheme("keep"), synthetic_model, 1) as (subject, _):
        for _ in range(2):
            assert suite.accuracy(subject) == {"tasks": [None, None]}
    ours = {"arithmetic": subject.arithmetic, "context": 17}
    theirs = {"arithmetic": BASELINE, "context": 17}
    assert asked == [(Engine, ours, 6), (DenseEngine, theirs, 6), (Engine, ours, 6)]


def test_another_engine_is_asked_by_its_logits(suite: Suite, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = pytest.importorskip("scripts.scheme_accuracies", reason="lm-eval is not installed: pip install 'edgellm[eval]'")
    asked = []
    monkeypatch.setattr(accuracies, "scores", lambda scorer, *_, **__: asked.append(scorer))
    monkeypatch.setattr(accuracies, "compared", lambda *_: [])
    suite.items = 6
    with loaded(Scheme("keep"), synthetic_model, 1) as (subject, _):
        suite.accuracy(replace(subject, engine=None))
        ours, baseline = asked
        assert isinstance(ours, LogitsScorer)
        assert isinstance(baseline, DenseEngine)
        assert np.array_equal(ours.logits([5, 6]), subject.logits([5, 6]))
        assert ours.tokenizer is suite.tokenizer


def test_which_schemes(tmp_path: Path) -> None:
    assert [scheme for scheme, _ in chosen([], [])] == list(SCHEMES)
    assert [scheme.name for scheme, _ in chosen(["int8"], [])] == ["int8"]
    with pytest.raises(InvalidRequestError, match="'int5' is unknown; known: keep, Q4_0"):
        chosen(["int5"], [])
    with pytest.raises(InvalidRequestError, match="there is no file"):
        chosen([], [f"mixed={tmp_path / 'missing'}"])
    (file := tmp_path / "mixed.tmac2.bin").touch()
    assert chosen(["int8"], [f"mixed={file}"])[-1] == (Scheme("mixed"), file)
    assert chosen(["int8"], [f"int8={file}"]) == [(Scheme("int8", ("--scheme", "int8")), file)]  # made before, and not made again


def test_a_scheme_that_starts_from_another_is_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one first, and neither a second time."""
    commands = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(arguments := command[3:])
        Path(arguments[-1]).write_text(" ".join(arguments), encoding="utf-8")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(quality_schemes, "FOLDER", tmp_path / "schemes")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(quality_schemes, "SCHEMES", (Scheme("a", ("--scheme", "int3")), Scheme("b", ("--steps", "2"), start="a")))
    (source := tmp_path / "source").touch()
    first, second = (quality_schemes.made(quality_schemes.SCHEMES[1], source) for _ in range(2))
    assert first == second
    (start,) = first.parent.glob("a-*")
    assert commands == [
        ["quantize", str(source), "--scheme", "int3", "-o", str(start)],
        ["distill", str(source), "--from", str(start), "--steps", "2", "-o", str(first)],
    ]
    monkeypatch.setattr(quality_schemes, "SCHEMES", (Scheme("a", ("--scheme", "int4")), quality_schemes.SCHEMES[1]))
    assert quality_schemes.made(quality_schemes.SCHEMES[1], source) != first  # of another start, another file


def test_every_start_is_a_scheme() -> None:
    names = {scheme.name for scheme in SCHEMES}
    assert {scheme.start for scheme in SCHEMES if scheme.start} <= names


def test_names_of_schemes_are_unique() -> None:
    assert len({scheme.name for scheme in SCHEMES}) == len(SCHEMES)
