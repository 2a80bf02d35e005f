"""Tasks over a synthetic model: what is asked, what is judged, and what is said of tasks and records that are wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import edgellm
from edgellm.errors import EvaluationError
from tests.unit.evaluate.conftest import Write

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")

from edgellm.evaluate import suite
from edgellm.evaluate.adapter import EdgeLM
from edgellm.evaluate.answers import Answers
from edgellm.evaluate.cache import Key

ENDINGS: list[dict[str, Any]] = [{"query": f"hi {i}: you", "choices": ["hi", "you hi", "12", "no"], "label": i % 4} for i in range(12)]
QUESTIONS = [
    {"subject": subject, "question": f"{subject} {i}?", "choices": ["1", "2", "3", "4"], "answer": i % 4}
    for subject in ("law", "art")
    for i in range(6)
]


@pytest.fixture(scope="module")
def lm(synthetic_model: Path) -> EdgeLM:
    return EdgeLM(edgellm.load(synthetic_model, threads=1), progress=False)


def test_every_item_is_judged_by_its_own_likelihoods(lm: EdgeLM, write_records: Write) -> None:
    write_records("hellaswag_val.jsonl.gz", ENDINGS)
    score = suite.run(lm, "hellaswag")
    assert score.items == tuple(range(12))
    right = []
    for record in ENDINGS:
        ids = [lm.tok_encode(f"{record['query']} {choice}") for choice in record["choices"]]
        start = len(lm.tok_encode(record["query"]))
        nlls = [lm.engine.score(each, start).nll.sum() for each in ids]
        right.append(float(nlls.index(min(nlls)) == record["label"]))
    assert score.metrics["acc"].values == tuple(right)
    assert score.metrics["acc"].value == pytest.approx(sum(right) / 12)
    assert score.metrics["acc"].stderr is not None
    assert set(score.metrics) == {"acc", "acc_norm"}


def test_items_of_a_small_limit_are_among_those_of_a_larger() -> None:
    assert suite.chosen(1000, 20) == suite.chosen(1000, 20)
    assert set(suite.chosen(1000, 20)) < set(suite.chosen(1000, 200))
    assert suite.chosen(5, None) == suite.chosen(5, 9) == [0, 1, 2, 3, 4]


def test_what_was_answered_is_not_asked_again(lm: EdgeLM, write_records: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records("hellaswag_val.jsonl.gz", ENDINGS)
    key = Key("0", "hellaswag", 1, {})
    with Answers(tmp_path, key) as answers:
        few = suite.run(lm, "hellaswag", 5, answers)
    asked: list[Any] = []
    scored = lm._scored

    def counted(requests: Any) -> Any:
        asked.extend(requests)
        return scored(requests)

    monkeypatch.setattr(lm, "_scored", counted)
    with Answers(tmp_path, key) as answers:
        all_of_them = suite.run(lm, "hellaswag", None, answers)
    assert len(asked) == 4 * (12 - 5)
    kept = dict(zip(all_of_them.items, all_of_them.metrics["acc"].values, strict=True))
    assert [kept[item] for item in few.items] == list(few.metrics["acc"].values)


def test_mmlu_shows_examples_of_the_same_subject_and_tells_subjects_apart(lm: EdgeLM, write_records: Write) -> None:
    write_records("mmlu_test.jsonl.gz", QUESTIONS)
    write_records("mmlu_dev.jsonl.gz", [{**QUESTIONS[0], "question": "solved?"}, QUESTIONS[-1]])
    task = suite.load("mmlu")
    prompt = "law 0?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    assert task.doc_to_text(task.eval_docs[0]) == f"solved?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\n{prompt}"
    score = suite.run(lm, "mmlu")
    assert {subject: items for subject, (items, _) in score.parts.items()} == {"art": 6, "law": 6}
    assert sum(items * mean for items, mean in score.parts.values()) == pytest.approx(12 * score.metrics["acc"].value)


def test_generated_answers_are_matched_and_translations_scored(lm: EdgeLM, write_records: Write) -> None:
    write_records("nq_open_dev.jsonl.gz", [{"question": f"who is {i}", "answer": ["hi", "you"]} for i in range(8)])
    write_records("multi30k_test2016.jsonl.gz", [{"en": f"hi {i}", "de": f"hallo {i}"} for i in range(7)])
    matched, translated = suite.run(lm, "nq_open"), suite.run(lm, "multi30k_en_de")
    assert (len(matched.items), len(translated.items)) == (3, 3)
    assert 0 <= matched.metrics["exact_match"].value <= 1
    assert 0 <= translated.metrics["bleu"].value <= 100
    assert (matched.examples_shown, translated.examples_shown) == (5, 4)


def test_perplexity_of_words_and_bytes(lm: EdgeLM, write_records: Write) -> None:
    write_records("wikitext2_test_pages.jsonl.gz", [{"page": "hi you hi"}, {"page": "12 hi 12"}])
    metrics = suite.run(lm, "wikitext").metrics
    total = lm.engine.score([0, *lm.tok_encode("hi you hi")]).nll.sum() + lm.engine.score([0, *lm.tok_encode("12 hi 12")]).nll.sum()
    assert metrics["bits_per_byte"].value == pytest.approx(total / 17 / 0.6931471805599453)


def test_every_task_that_comes_along_can_be_read() -> None:
    from lm_eval.tasks import TaskManager

    assert TaskManager(include_path=str(suite.TASKS), include_defaults=False).all_subtasks == suite.names()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("helaswag", "the task 'helaswag' is unknown: did you mean hellaswag"),
        ("arc", "did you mean arc_easy"),
        ("../records", "is unknown: There are arc_challenge, "),
        ("mine.yaml", "the task 'mine.yaml' is unknown"),
        ("", "the task '' is unknown"),
    ],
)
def test_unknown_tasks(name: str, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        suite.load(name)


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "- x", "task: x", "task: x\noutput_type: odd\ndataset_path: y", "group: g\ntask: []", "task: x\ninclude: nowhere.yaml"],
)
def test_broken_task_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=r"mine\.yaml (does not make a task: |makes \d tasks)"):
        suite.load(str(path))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"label": 4}, "its answer is 4; there are 4 choices"),
        ({"label": "x"}, "its answer is 'x'"),
        ({"choices": ["a", "", "c", "d"]}, "each must be a text"),
        ({"choices": [], "label": 0}, "its answer is 0; there are 0 choices"),
    ],
)
def test_records_that_cannot_be_asked_are_named(record: dict[str, Any], said: str, lm: EdgeLM, write_records: Write) -> None:
    labels = [{**entry, "label": str(entry["label"])} for entry in ENDINGS]
    write_records("hellaswag_val.jsonl.gz", [*labels, {**labels[0], **{key: str(v) if key == "label" else v for key, v in record.items()}}])
    with pytest.raises(EvaluationError, match=f"hellaswag: record 13 of 13 cannot be asked: ValueError: .*{said}"):
        suite.run(lm, "hellaswag")


def test_an_empty_limit(lm: EdgeLM, write_records: Write) -> None:
    write_records("hellaswag_val.jsonl.gz", ENDINGS)
    with pytest.raises(EvaluationError, match="a limit of 0 items leaves nothing to ask"):
        suite.run(lm, "hellaswag", 0)


def test_missing_data_says_how_to_get_it(lm: EdgeLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_DATA", str(tmp_path))
    with pytest.raises(EvaluationError, match=r"hellaswag_val\.jsonl\.gz cannot be read: .*EDGELLM_DATA must name the folder"):
        suite.run(lm, "hellaswag")


def test_the_environment_is_left_as_it_was(lm: EdgeLM, write_records: Write) -> None:
    write_records("hellaswag_val.jsonl.gz", ENDINGS)
    before = dict(os.environ)
    suite.run(lm, "hellaswag", 1)
    assert dict(os.environ) == before
