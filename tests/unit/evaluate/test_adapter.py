"""The adapter over a synthetic model, whose logits say what every answer must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import edgellm
from edgellm import Engine
from edgellm.errors import EvaluationError, NonFiniteError
from tests.unit.conftest import END, START, ScriptedEngine

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from edgellm.evaluate.adapter import EdgeLM
from edgellm.evaluate.scorer import LogitsScorer

CONTEXT = 48


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, argument, i) for i, argument in enumerate(arguments)]


@pytest.fixture(scope="module")
def engine(synthetic_model: Path) -> Engine:
    return edgellm.load(synthetic_model, threads=1, context=CONTEXT)


@pytest.fixture
def lm(engine: Engine) -> EdgeLM:
    engine.reset()
    return EdgeLM(engine, progress=False)


def expected(engine: Engine, ids: list[int], start: int) -> tuple[float, bool]:
    """From the logits of the whole text, run on its own."""
    logits = engine.logits(ids[:-1])[start - 1 :].astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = ids[start:]
    return float(logits[np.arange(len(targets)), targets].sum()), bool((logits.argmax(axis=1) == targets).all())


def test_continuations_are_scored_given_their_context(engine: Engine, lm: EdgeLM) -> None:
    pairs = [("hi hi", " you"), ("hi", " hi"), ("hi hi", " 12"), ("hi ", "there"), ("hi hi", " you too")]
    answers = lm.loglikelihood(requests("loglikelihood", *pairs))
    for (context, continuation), (loglikelihood, greedy) in zip(pairs, answers, strict=True):
        ids, start = engine.tokenizer.encode(context + continuation), len(engine.tokenizer.encode(context.rstrip()))
        summed, all_greedy = expected(engine, ids, start)
        assert loglikelihood == pytest.approx(summed, abs=1e-5)
        assert greedy == all_greedy


def test_the_most_probable_continuation_is_greedy(engine: Engine, lm: EdgeLM) -> None:
    ids = engine.tokenizer.encode("hi hi")
    best = int(engine.logits(ids)[-1].argmax())
    assert lm._loglikelihood_tokens([(("", ""), ids, [best])])[0][1]
    assert not lm._loglikelihood_tokens([(("", ""), ids, [best + 1 if best == 0 else best - 1])])[0][1]


@pytest.fixture
def run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each step had."""
    steps: list[int] = []
    advance = engine._advance

    def counted(ids: Any, outputs: int) -> None:
        steps.append(len(ids))
        advance(ids, outputs)

    monkeypatch.setattr(engine, "_advance", counted)
    return steps


def test_a_context_is_run_once(lm: EdgeLM, run: list[int]) -> None:
    context, others = list(range(3, 33)), list(range(40, 60))
    lm._loglikelihood_tokens([(None, context, [5, 6]), (None, others, [7]), (None, context, [8]), (None, context, [9, 5, 6])])
    assert sum(run) <= len(context) + len(others) + 6


def test_choices_of_one_token_are_read_from_the_same_logits(engine: Engine, lm: EdgeLM, run: list[int]) -> None:
    """Four letters after one prompt: its tokens are run, and nothing else; answers come in the order of the requests."""
    context, letters = list(range(3, 33)), [12, 9, 40, 7]
    answers = lm._loglikelihood_tokens([(("", ""), context, [letter]) for letter in letters])
    assert run == [len(context)]
    assert engine.cached_tokens == tuple(context)
    assert answers == [
        (-scores.nll.item(), scores.greedy.item()) for scores in (engine.score([*context, letter], 30) for letter in letters)
    ]


def test_without_context_comes_bos(engine: Engine, lm: EdgeLM) -> None:
    (answer,) = lm.loglikelihood(requests("loglikelihood", ("", "hi")))
    assert answer[0] == pytest.approx(expected(engine, [START, *engine.tokenizer.encode("hi")], 1)[0], abs=1e-5)


@pytest.mark.parametrize(("add_bos", "begins"), [(None, []), (False, []), (True, [START])])
def test_bos_as_asked_and_never_twice(engine: Engine, add_bos: bool | None, begins: list[int]) -> None:
    lm, plain = EdgeLM(engine, add_bos=add_bos), engine.tokenizer.encode("hi")
    assert lm.tok_encode("hi") == [*begins, *plain]
    assert lm.tok_encode("hi", add_special_tokens=False) == plain
    assert lm.tok_encode("<|im_start|>hi") == [START, *plain]


def test_long_contexts_lose_their_beginning(engine: Engine, lm: EdgeLM) -> None:
    """The last of max_length + 1 tokens is predicted and never run: lm-eval's own rule for `hf`."""
    context, continuation = [5 + i % 200 for i in range(300)], [9, 8, 7]
    (answer,) = lm._loglikelihood_tokens([(None, context, continuation)])
    kept = (context + continuation)[-CONTEXT - 1 :]
    assert answer[0] == pytest.approx(expected(engine, kept, len(kept) - 3)[0], abs=1e-5)


def test_long_contexts_before_one_token(engine: Engine, lm: EdgeLM) -> None:
    context = [5 + i % 200 for i in range(300)]
    (answer,) = lm._loglikelihood_tokens([(None, context, [9])])
    assert answer[0] == pytest.approx(expected(engine, [*context[-CONTEXT:], 9], CONTEXT)[0], abs=1e-5)


def test_long_continuations_are_refused_by_name(lm: EdgeLM) -> None:
    with pytest.raises(EvaluationError, match=r"the continuation '.*\?' of 'hi': the continuation has 60 tokens; at most 48 fit"):
        lm.loglikelihood(requests("loglikelihood", ("hi", "?" * 60)))


def test_empty_continuations_are_refused(lm: EdgeLM) -> None:
    with pytest.raises(EvaluationError, match="a continuation of 'hi' is empty"):
        lm.loglikelihood(requests("loglikelihood", ("hi", "")))


def test_rolling_windows_score_each_token_once(engine: Engine, lm: EdgeLM) -> None:
    text = "hi you " * 20
    ids = engine.tokenizer.encode(text)
    assert len(ids) > 2 * CONTEXT
    total = 0.0
    for start in range(0, len(ids), CONTEXT):
        window = ids[start : start + CONTEXT]
        left = CONTEXT + 1 - len(window)  # tokens before a last, shorter window, which is scored with as much context as fits
        before = ([START, *ids])[max(0, start + 1 - left) : start + 1] if start else [START]
        total += expected(engine, before + window, len(before))[0]
    assert lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,))) == [pytest.approx(total, abs=1e-4)]


def test_empty_text_has_likelihood_one(lm: EdgeLM) -> None:
    assert lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("",))) == [0.0]


def test_answers_end_before_what_ends_them(scripted: Callable[..., ScriptedEngine]) -> None:
    lm = EdgeLM(cast("Engine", scripted("hi 12.", "12", END, "hi hi hi hi")), progress=False)
    settings = [{"until": ["."], "do_sample": False}, {"until": []}, {"until": "\n", "max_gen_toks": 3}]
    prompts = requests("generate_until", *((prompt, setting) for prompt, setting in zip(("a", "b", "c"), settings, strict=True)))
    lm.max_length = 300
    lm.engine.context = 400
    assert lm.generate_until(prompts) == ["hi 12", "12", "hi hi hi"]


def test_an_engine_of_logits_alone_scores_the_same_and_writes_nothing(engine: Engine, lm: EdgeLM) -> None:
    other = EdgeLM(LogitsScorer(engine.path, engine.context, engine.tokenizer, engine.logits), progress=False)
    asked = requests("loglikelihood", ("hi", " you"), ("hi", " hi 12"), ("hi 12", "."), ("hi 12", "!"), ("", "hi"))
    for ours, theirs in zip(lm.loglikelihood(asked), other.loglikelihood(asked), strict=True):
        assert theirs[0] == pytest.approx(ours[0], abs=1e-5)
        assert theirs[1] is ours[1]
    with pytest.raises(EvaluationError, match="scores texts and writes none"):
        other.generate_until(requests("generate_until", ("hi", {"max_gen_toks": 8})))


def test_prompts_lose_their_beginning_to_make_room(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted(END, context=20)
    EdgeLM(cast("Engine", engine), progress=False).generate_until(requests("generate_until", ("x" * 40 + "y", {"max_gen_toks": 8})))
    assert engine.prompts == [engine.tokenizer.encode("x" * 11 + "y")]


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 1.0}, {"num_beams": 4}, {"max_gen_toks": 64}])
def test_answers_that_cannot_be_had_are_refused(settings: dict[str, Any], lm: EdgeLM) -> None:
    with pytest.raises(EvaluationError, match="possible are greedy ones|leave no room for a prompt in 48"):
        lm.generate_until(requests("generate_until", ("hi", settings)))


def test_nan_names_the_request(engine: Engine, lm: EdgeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = engine._advance

    def spoiled(ids: Any, outputs: int) -> None:
        advance(ids, outputs)
        engine._state.logits_LV[:outputs] = math.nan

    monkeypatch.setattr(engine, "_advance", spoiled)
    for continuation in (" you", " hi"):  # of several tokens, and of one
        with pytest.raises(NonFiniteError, match=f"the continuation '{continuation}' of 'hi' cannot be scored: the logits after position"):
            lm.loglikelihood(requests("loglikelihood", ("hi", continuation)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 8}, "batch_size is 8; the engine runs one text at a time"),
        ({"max_batch_size": 2}, "one text at a time"),
        ({"max_length": 1}, "max_length is 1; possible: from 2 to"),
        ({"max_length": 49}, "engine's context of 48 tokens"),
    ],
)
def test_options_that_cannot_be_honoured(engine: Engine, options: dict[str, Any], said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        EdgeLM(engine, **options)


def test_conversations_go_through_the_models_template(scripted: Callable[..., ScriptedEngine]) -> None:
    lm = EdgeLM(cast("Engine", scripted()))
    assert lm.apply_chat_template([{"role": "user", "content": "hi"}]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert lm.chat_template(True) == lm.engine.chat_template
    assert lm.chat_template(False) is None


def test_lm_eval_knows_the_model_by_name(synthetic_model: Path) -> None:
    lm = get_model("edgellm").create_from_arg_string(
        f"pretrained={synthetic_model},threads=1,max_length=32", {"batch_size": 1, "device": "cuda:0"}
    )
    assert (type(lm), lm.engine.threads, lm.max_length) == (EdgeLM, 1, 32)
