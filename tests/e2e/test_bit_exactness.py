"""The same model and prompt give the same logits, bit for bit, whatever computes them and however the work is cut up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.ops import native
from edgellm.runtime.engine import Engine, KVDtype
from tests.e2e import golden
from tests.e2e.golden import PROMPT, digest, joined


def test_hashes_of_another_model_are_not_compared(model_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text(json.dumps({"model_sha256": "0" * 64}))
    with pytest.raises(AssertionError, match=r"engine\.json was made with another model than .*\.gguf"):
        golden.read(path, model_gguf)


@pytest.mark.parametrize(("threads", "prefill_chunk"), [(1, 128), (2, 7)])
@pytest.mark.parametrize("kv_dtype", ["f16", "f32"])
def test_logits_are_golden(
    model_path: Path,
    prompts: dict[str, list[int]],
    engine_golden: Any,
    isa: str,
    kv_dtype: KVDtype,
    threads: int,
    prefill_chunk: int,
) -> None:
    engine = edgellm.load(model_path, isa=isa, threads=threads, kv_dtype=kv_dtype, prefill_chunk=prefill_chunk, context=64)
    assert digest(engine.logits(prompts[PROMPT])) == engine_golden["logits_sha256"][kv_dtype]


def test_logits_of_a_long_prompt_are_golden(model_path: Path, prompts: dict[str, list[int]], engine_golden: Any, isa: str) -> None:
    if isa == "scalar":
        pytest.skip("scalar C takes too long for a long prompt; tests/kernels compares its attention over long caches")
    engine = edgellm.load(model_path, isa=isa, threads=1, context=256)
    assert digest(engine.prefill(joined(prompts))) == engine_golden["long_prompt_logits_sha256"]


@pytest.mark.usefixtures("emulation")
def test_a_few_tokens_have_the_same_logits_emulated_too(engine: Engine, model_path: Path, prompts: dict[str, list[int]], isa: str) -> None:
    """A chunk of four tokens and one of two: kernels unpack weights once for four."""
    few = prompts[PROMPT][:6]
    other = edgellm.load(model_path, isa=isa, threads=2, prefill_chunk=4, context=64)
    np.testing.assert_array_equal(other.logits(few), engine.logits(few))


@pytest.mark.parametrize(("threads", "prefill_chunk"), [(1, 1), (2, 33), (3, 16)])
def test_chunks_and_threads_change_no_bit(
    model_path: Path, prompts: dict[str, list[int]], engine_golden: Any, threads: int, prefill_chunk: int
) -> None:
    engine = edgellm.load(model_path, threads=threads, prefill_chunk=prefill_chunk, context=256)
    assert digest(engine.prefill(joined(prompts))) == engine_golden["long_prompt_logits_sha256"]


def test_eager_ops_give_the_bits_of_the_recorded_plan(model_path: Path, prompts: dict[str, list[int]], engine_golden: Any) -> None:
    engine = Engine(model_path, threads=1, context=64, make_ops=native.Eager)
    assert digest(engine.logits(prompts[PROMPT])) == engine_golden["logits_sha256"]["f16"]


def test_the_gguf_itself_gives_the_bits_of_its_conversion(model_gguf: Path, prompts: dict[str, list[int]], engine_golden: Any) -> None:
    engine = edgellm.load(model_gguf, threads=1, context=64)
    assert digest(engine.logits(prompts[PROMPT])) == engine_golden["logits_sha256"]["f16"]


def test_decoding_one_by_one_gives_the_bits_of_prefill(engine: Engine, prompts: dict[str, list[int]]) -> None:
    ids = prompts[PROMPT]
    expected = engine.logits(ids)
    engine.reset()
    np.testing.assert_array_equal(engine.prefill(ids[:1]), expected[0])
    for i, token in enumerate(ids[1:], start=1):
        np.testing.assert_array_equal(engine.decode(token), expected[i], err_msg=f"token {i}")
    assert engine.cached_tokens == tuple(ids)


def test_a_cached_prefix_is_not_computed_again_and_changes_no_bit(
    engine: Engine, prompts: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, first, second = prompts["english"], prompts["c"], prompts["french"]
    from_scratch = engine.logits(prefix + second)[-1]
    engine.reset()
    engine.prefill(prefix + first)
    computed: list[int] = []
    advance = engine._advance

    def noted(ids: list[int], n_outputs: int) -> None:
        computed.extend(ids)
        advance(ids, n_outputs)

    monkeypatch.setattr(engine, "_advance", noted)
    np.testing.assert_array_equal(engine.prefill(prefix + second), from_scratch)
    assert computed == second
    np.testing.assert_array_equal(engine.prefill(prefix + second), from_scratch)
    assert computed == [*second, second[-1]], "the same prompt again runs its last token only"
    np.testing.assert_array_equal(engine.prefill(prefix).copy(), engine.logits(prefix)[-1])
