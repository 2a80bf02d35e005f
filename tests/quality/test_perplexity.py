"""Perplexity of the real model against what the reference implementations give on the same windows of the same tokens."""

from __future__ import annotations

import hashlib
import json
import math
import pydoc_data.topics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm import Engine
from edgellm.evaluate.data import wikitext2_test
from edgellm.evaluate.perplexity import WINDOW, Perplexity, from_logits, perplexity
from tests.conftest import Report

pytestmark = pytest.mark.quality

GOLDEN = Path(__file__).parent / "golden_perplexity.json"
TOLERANCE = 0.01
"""Of the perplexity. Activations in int8 per 32 cost 0.4% of it; llama.cpp quantizes them too, transformers does not."""


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What the references gave, window by window, made by the parity tests."""
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    assert content["window_tokens"] == WINDOW
    return content


@pytest.fixture(scope="module")
def wikitext_ids(evaluation_data: Path, engine: Engine) -> list[int]:
    """WikiText-2's raw test text, encoded once as a whole."""
    return engine.tokenizer.encode(wikitext2_test(), special=False)


@pytest.fixture(scope="module")
def ours(golden: dict[str, Any], wikitext_ids: list[int], engine: Engine) -> Perplexity:
    """The windows that the golden file holds, once every token id is known to be the same."""
    windows = len(golden["transformers"]["mean_nll"])
    scored = np.array(wikitext_ids[: windows * WINDOW], "<i4")
    assert hashlib.sha256(scored.tobytes()).hexdigest() == golden["ids_sha256"]
    return perplexity(engine.score, wikitext_ids, windows=windows, progress=False)


@pytest.mark.parametrize("reference", ["transformers", "llama_cpp"])
def test_wikitext2_against_golden(reference: str, ours: Perplexity, golden: dict[str, Any], report: Report) -> None:
    """Within 1% of the reference, and no single window further off than five times what the activations' rounding costs on average."""
    nlls = golden[reference]["mean_nll"]
    theirs = math.exp(math.fsum(nlls) / len(nlls))
    delta = ours.ppl / theirs - 1
    report(
        "quality",
        f"WikiText-2, {len(nlls)} windows of {WINDOW}: ppl {ours.ppl:.4f}, {reference} {theirs:.4f}, {delta:+.3%}",
        **scored("wikitext2_test", WINDOW, ours),
        reference={"backend": reference, "ppl": theirs, "window_nlls": nlls},
        delta=delta,
    )
    assert abs(delta) < TOLERANCE
    np.testing.assert_allclose(ours.window_nlls, nlls, rtol=0, atol=0.02)


def test_prose_that_every_python_carries(engine: Engine, report: Report) -> None:
    """Python's own language reference: a sound model predicts it far better than chance, and shuffled far worse. Needs no data folder."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in ("if", "while", "for"))
    ids = engine.tokenizer.encode(text, special=False)[:512]
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    prose, noise = (perplexity(engine.score, tokens, window=256, windows=2, progress=False) for tokens in (ids, shuffled))
    for text, result in (("pydoc topics", prose), ("pydoc topics, shuffled", noise)):
        report("quality", f"{text}: ppl {result.ppl:.2f}", **scored(text, 256, result))
    assert 1.5 < prose.ppl < 40
    assert noise.ppl > 20 * prose.ppl


@pytest.mark.peers
def test_wikitext2_beside_llama_cpp(
    pytestconfig: pytest.Config, wikitext_ids: list[int], engine: Engine, model_gguf: Path, report: Report
) -> None:
    """The same windows through both, live; `--windows` says how many."""
    pytest.importorskip("llama_cpp", reason="the peer llama.cpp is not installed: pip install 'edgellm[baselines]'")
    from edgellm.measure.backends.llama_cpp import LlamaCppBackend

    windows = pytestconfig.getoption("--windows") or None
    peer = LlamaCppBackend(model_gguf, threads=engine.threads, context=WINDOW)
    try:
        ours, theirs = (perplexity(score, wikitext_ids, windows=windows) for score in (engine.score, from_logits(peer.logits)))
    finally:
        peer.unload()
    delta = ours.ppl / theirs.ppl - 1
    worst = float(np.abs(np.subtract(ours.window_nlls, theirs.window_nlls)).max())
    report(
        "quality_peers",
        f"WikiText-2, {len(ours.window_nlls)} windows: ppl {ours.ppl:.4f}, llama.cpp {theirs.ppl:.4f}, {delta:+.3%}; "
        f"-log p of one window differs by at most {worst:.4f}",
        **scored("wikitext2_test", WINDOW, ours),
        reference={"backend": peer.name} | asdict(theirs),
        delta=delta,
        max_abs_window_dnll=worst,
    )
    assert abs(delta) < TOLERANCE


def scored(text: str, window: int, result: Perplexity) -> dict[str, Any]:
    """What a record says of our own score."""
    return {"backend": "edgellm", "text": text, "window_tokens": window, **asdict(result)}
