"""The engine on a synthetic model: the same bits however it runs, its cache, its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import numpy.typing as npt
import pytest

import edgellm
from edgellm.errors import (
    CacheReplacedError,
    ContextOverflowError,
    EdgeLLMError,
    InvalidRequestError,
    ModelFileError,
    NativeError,
    NonFiniteError,
)
from edgellm.formats.tmac2 import write_tmac2
from edgellm.ops import native
from edgellm.ops.interface import CheckingOps
from edgellm.ops.reference import Reference
from edgellm.runtime.engine import PREFILL_CHUNK, Engine
from tests.unit.runtime import programs
from tests.unit.runtime.synthetic import CONFIG, VOCAB, checkpoint

PROMPT = [i * 5 % VOCAB for i in range(40)]
OPS = ("embed", "rmsnorm_quantize", "quantize", "matmul", "rope", "cache_append", "attention", "gate_quantize")


@pytest.fixture(scope="module", params=["f16", "f32"])
def oracle(request: pytest.FixtureRequest, synthetic_model: Path) -> tuple[Any, npt.NDArray[np.float32]]:
    """The cache's type, and the logits of PROMPT by scalar C, one thread, one step."""
    return request.param, edgellm.load(synthetic_model, threads=1, isa="scalar", kv_dtype=request.param).logits(PROMPT)


@pytest.fixture
def engine(synthetic_model: Path) -> Engine:
    return edgellm.load(synthetic_model, threads=1, context=64)


def steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(T, L, outputs) of each step that the engine runs from now on."""
    seen: list[tuple[int, int, int]] = []
    replay = engine._replay

    def note() -> None:
        seen.append((engine._step.position, engine._step.n_tokens, engine._step.n_outputs))
        replay()

    monkeypatch.setattr(engine, "_replay", note)
    return seen


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize(("threads", "chunk"), [(1, 1), (1, 3), (1, 16), (1, 64), (2, 7), (2, 64), (3, 16)])
def test_the_same_bits_on_every_instruction_set_thread_count_and_chunk(
    isa: str, threads: int, chunk: int, oracle: tuple[Any, npt.NDArray[np.float32]], synthetic_model: Path
) -> None:
    kv_dtype, expected = oracle
    engine = edgellm.load(synthetic_model, threads=threads, isa=isa, kv_dtype=kv_dtype, prefill_chunk=chunk)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(engine.logits(PROMPT), expected)
    engine.reset()
    np.testing.assert_array_equal(engine.prefill(PROMPT), expected[-1])


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("threads", [1, 3])
def test_looking_sums_up_gives_the_same_bits(
    isa: str, threads: int, oracle: tuple[Any, npt.NDArray[np.float32]], synthetic_model: Path
) -> None:
    """A prompt is multiplied, a token looked up."""
    kv_dtype, expected = oracle
    engine = edgellm.load(synthetic_model, threads=threads, isa=isa, kv_dtype=kv_dtype, layout="lookup")
    assert engine.plan
    assert {op.name for op in engine.plan.ops if op.work.scheme} == {"embed", "matmul", "lookup"}
    np.testing.assert_array_equal(engine.prefill(PROMPT[:-1]), expected[-2])
    np.testing.assert_array_equal(engine.decode(PROMPT[-1]), expected[-1])


def test_decoding_gives_the_bits_of_prefilling(engine: Engine) -> None:
    expected = engine.logits(PROMPT)
    engine.reset()
    np.testing.assert_array_equal(engine.prefill(PROMPT[:7]), expected[6])
    for i in range(7, len(PROMPT)):
        np.testing.assert_array_equal(engine.decode(PROMPT[i]), expected[i])
    assert engine.cached_tokens == tuple(PROMPT)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.runtime.engine.Tokenizer", lambda *arguments: SimpleNamespace(vocab_size=VOCAB + 1))
    with pytest.raises(ModelFileError, match=f"the tokenizer has {VOCAB + 1} tokens, the model only {VOCAB}"):
        edgellm.load(synthetic_model, threads=1)


def test_generations_that_take_turns_give_what_each_gives_alone(engine: Engine) -> None:
    prompts = (PROMPT[:9], PROMPT[3:20])
    alone = [[token.id for token in engine.generate(prompt, max_tokens=8)] for prompt in prompts]
    turns = zip(*(engine.generate(prompt, max_tokens=8) for prompt in prompts), strict=True)
    assert [list(ids) for ids in zip(*((a.id, b.id) for a, b in turns), strict=True)] == alone


def test_decoding_for_a_text_that_lost_the_cache_is_refused(engine: Engine) -> None:
    engine.prefill(PROMPT[:5])
    epoch = engine.epoch
    engine.decode(PROMPT[5], epoch)
    engine.prefill(PROMPT[:6])
    with pytest.raises(CacheReplacedError, match="another text since"):
        engine.decode(PROMPT[6], epoch)


def steps_of_int8(logits: npt.NDArray[np.float32]) -> float:
    """Where float32 rounds a value across the border of two codes, its code differs by one, 1/127 of its group's largest; that moves
    the values after it, so another code may follow.
    """
    return 2 * float(np.abs(logits).max()) / 127


def test_numpy_agrees(synthetic_model: Path) -> None:
    expected = Engine(synthetic_model, threads=1, make_ops=lambda isa, pool: Reference()).logits(PROMPT)
    got = edgellm.load(synthetic_model, threads=1).logits(PROMPT)
    np.testing.assert_allclose(got, expected, rtol=0, atol=steps_of_int8(expected))


@pytest.fixture(scope="module")
def scaled_by_token(tokenizer_json: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic model, its activations with one scale a token."""
    path = tmp_path_factory.mktemp("model") / "token.tmac2.bin"
    write_tmac2(path, replace(checkpoint(tokenizer_json), activations="int8-token"))
    return path


@pytest.fixture(scope="module")
def by_scalar(scaled_by_token: Path) -> tuple[list[int], npt.NDArray[np.float32]]:
    """What follows PROMPT, and the logits of PROMPT, by scalar C, one thread, one step."""
    engine = edgellm.load(scaled_by_token, threads=1, isa="scalar")
    return [token.id for token in engine.generate(PROMPT, max_tokens=12)], engine.logits(PROMPT)


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("layout", ["multiply-add", "lookup"])
@pytest.mark.parametrize(("threads", "chunk"), [(1, 64), (2, 7), (3, 1), (3, 16)])
def test_one_scale_a_token_gives_the_same_text_and_bits_however_it_runs(
    isa: str, threads: int, chunk: int, layout: Any, by_scalar: tuple[list[int], npt.NDArray[np.float32]], scaled_by_token: Path
) -> None:
    ids, logits = by_scalar
    engine = edgellm.load(scaled_by_token, threads=threads, isa=isa, prefill_chunk=chunk, layout=layout)
    assert [token.id for token in engine.generate(PROMPT, max_tokens=12)] == ids
    np.testing.assert_array_equal(engine.logits(PROMPT), logits)


def test_numpy_agrees_on_one_scale_a_token(scaled_by_token: Path, synthetic_model: Path) -> None:
    engine = Engine(scaled_by_token, threads=1, make_ops=lambda isa, pool: Reference())
    expected = engine.logits(PROMPT)
    assert engine._state.normed_LD.scales.shape == (PREFILL_CHUNK, 1)
    got = edgellm.load(scaled_by_token, threads=1).logits(PROMPT)
    np.testing.assert_allclose(got, expected, rtol=0, atol=steps_of_int8(expected))
    assert not np.array_equal(got, edgellm.load(synthetic_model, threads=1).logits(PROMPT))


@pytest.mark.parametrize("in_numpy", OPS)
def test_any_one_op_can_be_numpys(in_numpy: str, synthetic_model: Path) -> None:
    class Mixed(native.Eager):
        """All ops in C but one."""

    setattr(Mixed, in_numpy, getattr(Reference(), in_numpy))
    make_ops: Callable[[str, native.Pool], CheckingOps] = Mixed
    expected = edgellm.load(synthetic_model, threads=1).logits(PROMPT)
    got = Engine(synthetic_model, threads=1, prefill_chunk=16, make_ops=make_ops).logits(PROMPT)
    np.testing.assert_allclose(got, expected, rtol=0, atol=steps_of_int8(expected))


def test_eager_ops_give_the_bits_of_the_plan(synthetic_model: Path) -> None:
    eager = Engine(synthetic_model, threads=2, make_ops=native.Eager)
    np.testing.assert_array_equal(eager.logits(PROMPT), edgellm.load(synthetic_model, threads=2).logits(PROMPT))
    assert eager.plan is None


@pytest.mark.parametrize("shared", [0, 1, 15, 16, 17, 29])
def test_a_shared_prefix_is_not_run_again_and_changes_no_bit(shared: int, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    other = [*PROMPT[:shared], *[200 + i for i in range(30 - shared)]]
    expected = engine.logits(other)[-1]
    engine.reset()
    engine.prefill(PROMPT)
    seen = steps(engine, monkeypatch)
    np.testing.assert_array_equal(engine.prefill(other), expected)
    assert seen == [(shared, 30 - shared, 1)]
    assert engine.cached_tokens == tuple(other)


def test_of_a_prompt_that_is_cached_only_the_last_token_is_run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = engine.prefill(PROMPT).copy()
    seen = steps(engine, monkeypatch)
    np.testing.assert_array_equal(engine.prefill(PROMPT), first)
    engine.prefill(PROMPT[:9])
    assert seen == [(39, 1, 1), (8, 1, 1)]
    assert engine.cached_tokens == tuple(PROMPT[:9])


def test_reset_forgets(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = engine.prefill(PROMPT).copy()
    engine.reset()
    assert engine.cached_tokens == ()
    seen = steps(engine, monkeypatch)
    np.testing.assert_array_equal(engine.prefill(PROMPT), first)
    assert seen == [(0, 40, 1)]


def test_a_long_prompt_goes_in_chunks_and_only_the_last_has_logits(synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = edgellm.load(synthetic_model, threads=1, prefill_chunk=16)
    seen = steps(engine, monkeypatch)
    engine.prefill(PROMPT)
    engine.logits(PROMPT)
    assert seen == [(0, 16, 0), (16, 16, 0), (32, 8, 1), (0, 16, 16), (16, 16, 16), (32, 8, 8)]


@pytest.mark.parametrize("context", [1, 15, 16, 21, 64])
def test_the_context_can_be_filled_and_not_overfilled(context: int, synthetic_model: Path) -> None:
    engine = edgellm.load(synthetic_model, threads=1, context=context)
    full = [i % VOCAB for i in range(context)]
    expected = engine.logits(full)[-1]
    np.testing.assert_array_equal(engine.prefill(full), expected)
    with pytest.raises(ContextOverflowError, match=f"the context of {context} tokens is full"):
        engine.decode(0)
    for run in (engine.prefill, engine.logits):
        with pytest.raises(ContextOverflowError, match=f"{context + 1} tokens were given; the context holds {context}"):
            run([*full, 0])
    assert engine.cached_tokens == tuple(full)
    np.testing.assert_array_equal(engine.prefill(full), expected)


@pytest.mark.parametrize("wrong", [-1, VOCAB, 1 << 40])
def test_ids_outside_the_vocabulary_are_refused_and_change_nothing(wrong: int, engine: Engine) -> None:
    engine.prefill(PROMPT[:5])
    calls: list[Callable[[], object]] = [
        lambda: engine.prefill([1, wrong, 2]),
        lambda: engine.logits([wrong]),
        lambda: engine.decode(wrong),
    ]
    for call in calls:
        with pytest.raises(InvalidRequestError, match=f"token id {wrong} is outside the vocabulary of {VOCAB}"):
            call()
    assert engine.cached_tokens == tuple(PROMPT[:5])


def test_no_tokens_are_refused(engine: Engine) -> None:
    for run in (engine.prefill, engine.logits):
        with pytest.raises(InvalidRequestError, match="at least one is needed"):
            run([])


def test_ids_may_come_in_any_sequence(engine: Engine) -> None:
    expected = engine.prefill(PROMPT).copy()
    for ids in (tuple(PROMPT), np.array(PROMPT), np.array(PROMPT, np.uint16)):
        engine.reset()
        np.testing.assert_array_equal(engine.prefill(ids), expected)  # type: ignore[arg-type]


def test_a_second_request_during_the_first_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.prefill(PROMPT).copy()
    engine.reset()
    refusals = []
    replay = engine._replay

    def call_again() -> None:
        for call in (lambda: engine.decode(0), lambda: engine.prefill([1]), lambda: engine.logits([1]), engine.reset, engine.profile):
            with pytest.raises(InvalidRequestError, match="busy with another thread's request") as refusal:
                call()
            refusals.append(refusal)
        replay()

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_replay", call_again)
        np.testing.assert_array_equal(engine.prefill(PROMPT), expected)
    assert len(refusals) == 5
    np.testing.assert_array_equal(engine.prefill(PROMPT), expected)


def test_a_failure_in_a_step_leaves_the_engine_usable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.prefill(PROMPT).copy()
    engine.reset()

    def fail() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_replay", fail)
        with pytest.raises(KeyboardInterrupt):
            engine.prefill(PROMPT)
    assert engine.cached_tokens == ()
    np.testing.assert_array_equal(engine.prefill(PROMPT), expected)


@pytest.mark.parametrize("program", [programs.interrupt.__name__, programs.interrupt_decoding.__name__, programs.fork.__name__])
def test_in_a_process_of_its_own(program: str, run_program: Callable[[str], None]) -> None:
    run_program(program)


def test_a_closed_engine_refuses(synthetic_model: Path) -> None:
    with edgellm.load(synthetic_model, threads=2) as engine:
        engine.prefill(PROMPT)
        generation = engine.generate(PROMPT)
    engine.close()
    assert engine.closed
    assert engine.memory()["weights"] > 0
    calls: list[Callable[[], object]] = [
        lambda: engine.prefill(PROMPT),
        lambda: engine.decode(1),
        lambda: engine.logits(PROMPT),
        engine.reset,
        engine.profile,
        engine.repeat,
        lambda: next(generation),
    ]
    for call in calls:
        with pytest.raises(InvalidRequestError, match="the engine is closed; load the model again"):
            call()


@pytest.mark.parametrize("fixed_team", [False, True])
def test_threads_that_are_measured_stay(fixed_team: bool, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = MagicMock(wraps=native.Pool)
    monkeypatch.setattr(native, "Pool", make)
    Engine(synthetic_model, threads=1, fixed_team=fixed_team)
    make.assert_called_once_with(1, may_shrink=not fixed_team)


def test_generate_goes_through_the_engine(engine: Engine) -> None:
    """The loop has its own tests; here, that a text becomes tokens and tokens a continuation, the same each time."""
    first = [token.id for token in engine.generate("x", max_tokens=5)]
    assert len(first) == 5 or first[-1] in engine.tokenizer.eos_ids
    assert [token.id for token in engine.generate(engine.tokenizer.encode("x"), max_tokens=5)] == first


def test_memory_is_counted(engine: Engine, synthetic_model: Path) -> None:
    memory = engine.memory()
    assert memory["kv_cache"] == 2 * 2 * 2 * 64 * 16 * 2  # two layers, keys and values, two heads, 64 positions of 16 halves
    assert memory["weights"] > sum(CONFIG[key] for key in ("vocab_size", "vocab_size")) * 64
    assert memory["workspace"] > 64 * VOCAB * 4
    wide = edgellm.load(synthetic_model, threads=1, context=64, kv_dtype="f32").memory()
    assert wide["kv_cache"] == 2 * memory["kv_cache"]


def test_profile_names_every_op(engine: Engine, synthetic_model: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no recorded step to profile: prefill or decode first"):
        engine.profile()
    expected = engine.prefill(PROMPT).copy()
    profile = engine.profile()
    assert engine.plan is not None
    assert [name for name, _ in profile] == [op.name for op in engine.plan.ops]
    assert all(ns > 0 for _, ns in profile)
    np.testing.assert_array_equal(engine.prefill(PROMPT), expected)
    eager = Engine(synthetic_model, threads=1, make_ops=native.Eager)
    eager.prefill(PROMPT)
    with pytest.raises(InvalidRequestError, match="no recorded step to profile"):
        eager.profile()


def test_a_step_can_be_repeated(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError, match="there is no step to repeat: prefill or decode first"):
        engine.repeat()
    engine.prefill(PROMPT)
    logits = engine.decode(7)
    expected = logits.copy()
    logits.fill(0)
    engine.repeat()
    np.testing.assert_array_equal(logits, expected)
    assert engine.cached_tokens == (*PROMPT, 7)


def test_what_was_asked_for_is_what_it_says(synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_ISA", "scalar")
    engine = edgellm.load(str(synthetic_model), threads=3, context=100)
    assert (engine.isa, engine.threads, engine.context, engine.path) == ("scalar", 3, 100, synthetic_model)
    assert engine.config.vocab_size == VOCAB
    assert edgellm.load(synthetic_model).context == CONFIG["max_position_embeddings"]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"context": 0}, InvalidRequestError, "context must be between 1 and the model's 512 tokens, not 0"),
        ({"context": 513}, InvalidRequestError, "context must be between 1 and the model's 512 tokens, not 513"),
        ({"kv_dtype": "f8"}, InvalidRequestError, "kv_dtype must be 'f16' or 'f32', not 'f8'"),
        ({"prefill_chunk": 0}, InvalidRequestError, "prefill_chunk must be between 1 and 4096, not 0"),
        ({"prefill_chunk": 4097}, InvalidRequestError, "prefill_chunk must be between 1 and 4096, not 4097"),
        ({"layout": "lut"}, InvalidRequestError, "layout must be one of 'multiply-add', 'lookup', not 'lut'"),
        ({"threads": 0}, InvalidRequestError, "threads must be between 1 and 256, not 0"),
        ({"isa": "mmx"}, NativeError, "instruction set 'mmx' is unknown"),
    ],
    ids=str,
)
def test_impossible_wishes_are_refused(asked: dict[str, Any], error: type[EdgeLLMError], message: str, synthetic_model: Path) -> None:
    with pytest.raises(error, match=message):
        edgellm.load(synthetic_model, **asked)


def test_a_missing_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    with pytest.raises(ModelFileError, match="there is no model 'nowhere'"):
        edgellm.load("nowhere")


def log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)


@pytest.mark.parametrize("start", [1, 2, 17, len(PROMPT) - 1])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_scores_are_those_of_the_logits(synthetic_model: Path, start: int, chunk: int) -> None:
    engine = edgellm.load(synthetic_model, threads=1, prefill_chunk=chunk)
    logits = engine.logits(PROMPT)
    engine.reset()
    nll, greedy = engine.score(PROMPT, start)
    expected = -log_probabilities(logits)[np.arange(start - 1, len(PROMPT) - 1), PROMPT[start:]]
    np.testing.assert_allclose(nll, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(greedy, logits[start - 1 : -1].argmax(axis=1) == PROMPT[start:])
    assert engine.cached_tokens == tuple(PROMPT[:-1])


def test_what_the_model_would_say_is_greedy(engine: Engine) -> None:
    said = [token.id for token in engine.generate(PROMPT[:9], max_tokens=6, ignore_eos=True)]
    assert engine.score([*PROMPT[:9], *said], 9).greedy.all()
    assert not engine.score([*PROMPT[:9], *((token + 1) % VOCAB for token in said)], 9).greedy[0]


def test_a_prefix_that_texts_share_is_computed_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [[*PROMPT[:20], last] for last in (3, 4)] + [[*PROMPT[:20], 5, 6, 7]]
    alone = []
    for text in texts:
        alone.append(engine.score(text, 20).nll)
        engine.reset()
    seen = steps(engine, monkeypatch)
    for text, expected in zip(texts, alone, strict=True):
        np.testing.assert_array_equal(engine.score(text, 20).nll, expected)
    assert seen == [(0, 20, 1), (19, 1, 1), (19, 3, 3)]


def test_candidates_are_scored_by_the_same_logits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [3, 250, 3, VOCAB - 1]
    expected = [engine.score([*PROMPT, candidate], len(PROMPT)) for candidate in candidates]
    engine.reset()
    seen = steps(engine, monkeypatch)
    nll, greedy = engine.score_next(PROMPT, candidates)
    assert seen == [(0, len(PROMPT), 1)]
    np.testing.assert_array_equal(nll, np.concatenate([scores.nll for scores in expected]))
    np.testing.assert_array_equal(greedy, np.concatenate([scores.greedy for scores in expected]))
    for wrong, problem in (([], "no tokens"), ([VOCAB], "outside the vocabulary")):
        with pytest.raises(InvalidRequestError, match=problem):
            engine.score_next(PROMPT, wrong)


def test_a_text_of_one_token_more_than_the_context_can_be_scored(engine: Engine) -> None:
    full = [i % VOCAB for i in range(engine.context + 1)]
    assert engine.score(full).nll.shape == (engine.context,)
    with pytest.raises(ContextOverflowError):
        engine.score([*full, 0])


@pytest.mark.parametrize(
    ("ids", "start", "problem"),
    [
        ([], 1, "no tokens"),
        ([1], 1, "no tokens"),
        ([1, 2, 3], 0, "start is 0; of 3 tokens, those from 1 to 2"),
        ([1, 2, 3], 3, "start is 3"),
        ([1, 2, VOCAB], 1, f"token id {VOCAB} is outside"),
        ([-1, 2, 3], 1, "token id -1 is outside"),
    ],
)
def test_what_can_not_be_scored(engine: Engine, ids: list[int], start: int, problem: str) -> None:
    engine.prefill(PROMPT)
    with pytest.raises(InvalidRequestError, match=problem):
        engine.score(ids, start)
    assert engine.cached_tokens == tuple(PROMPT)


def test_logits_that_are_not_numbers_have_no_score(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = engine._replay

    def broken() -> None:
        replay()
        engine._state.logits_LV[3, 5] = np.nan

    monkeypatch.setattr(engine, "_replay", broken)
    with pytest.raises(NonFiniteError, match="after position 3 hold NaN or an infinity"):
        engine.score(PROMPT)
    assert engine.cached_tokens == ()
