"""The engine on the real models of the catalogue, against what transformers and llama.cpp said of them (tests/golden/models.json).

On demand: `nox -s e2e -- models` fetches a gigabyte and takes minutes. What it measures is benchmarks/results/parity_models.json.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.evaluate.data import wikitext2_test
from edgellm.evaluate.perplexity import perplexity
from edgellm.ops import reference
from edgellm.runtime.engine import Engine
from tests.catalogue_models import (
    GOLDEN,
    GOLDEN_LOGITS,
    GREEDY_TOKENS,
    RECIPES,
    WINDOW,
    WINDOWS,
    converted,
    sampled_ids,
    weights_of,
    windows,
)
from tests.conftest import Report

pytestmark = pytest.mark.models

BOUND = 2e-3
"""Of a logit: float32 sums in another order."""
TOLERANCE = 0.01
"""Of the perplexity."""


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    """A model of the catalogue."""
    return str(request.param)


@pytest.fixture
def golden(name: str) -> Any:
    """What the references said."""
    return json.loads(GOLDEN.read_text())[name]


def test_without_int8_activations_the_text_is_transformers(name: str, golden: Any, report: Report) -> None:
    """Greedy ids over 64 tokens, and the logits of every position: the forward pass of the engine over the NumPy ops."""
    recorded = np.load(GOLDEN_LOGITS.with_name(GOLDEN_LOGITS.name.format(name=name)))
    engine = Engine(
        converted(name),
        threads=1,
        context=192,
        kv_dtype="f32",
        prefill_chunk=192,
        make_ops=lambda isa, pool: reference.Reference(quantize_activations=False),
        keep_exact_activations=True,
    )
    worst, equal = 0.0, True
    for record in golden["greedy"]:
        ids, key = record["ids"], record["prompt"]
        logits_LV = engine.logits(ids)
        said = logits_LV.argmax(axis=1)[record["prompt_tokens"] - 1 : -1]
        equal &= said.tolist() == ids[record["prompt_tokens"] :]
        others = np.stack([sampled_ids(position, logits_LV.shape[1]) for position in range(len(ids))])
        for at, logits in ((recorded[f"{key}.top_ids"], "top_logits"), (others, "sample_logits")):
            worst = max(worst, float(np.abs(np.take_along_axis(logits_LV, at, axis=1) - recorded[f"{key}.{logits}"]).max()))
    report(
        "parity_models",
        f"{name}: {len(golden['greedy'])} x {GREEDY_TOKENS} greedy tokens {'equal' if equal else 'DIFFER'}, max |dlogit| {worst:.1e}",
        model=name,
        weights=weights_of(name),
        reference="transformers float32 on the same dequantised weights",
        activations="exact",
        greedy_tokens=GREEDY_TOKENS * len(golden["greedy"]),
        greedy_ids_equal=equal,
        max_abs_dlogit=worst,
    )
    assert equal
    assert worst < BOUND


def test_perplexity_is_llama_cpps(name: str, golden: Any, report: Report) -> None:
    """WikiText-2, the engine as it is used (int8 activations), llama.cpp on the GGUF as it was published."""
    theirs = golden["perplexity"]
    engine = edgellm.load(converted(name), context=WINDOW)
    text = wikitext2_test()[: 16 * WINDOWS * WINDOW]
    ids = windows(engine.tokenizer.encode(text, special=False, add_special_tokens=False), theirs["bos"])
    assert hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest() == theirs["ids_sha256"]
    ours = perplexity(engine.score, ids, window=WINDOW, windows=WINDOWS, progress=False)
    ppl = math.exp(math.fsum(theirs["llama_cpp_nll"]) / WINDOWS)
    delta = ours.ppl / ppl - 1
    report(
        "parity_models",
        f"{name}: WikiText-2, {WINDOWS} windows of {WINDOW}: ppl {ours.ppl:.4f}, llama.cpp {ppl:.4f}, {delta:+.3%}",
        model=name,
        weights=weights_of(name),
        reference="llama.cpp on the published GGUF",
        activations="int8-g32",
        windows=WINDOWS,
        window_tokens=WINDOW,
        bos=theirs["bos"] is not None,
        ppl=ours.ppl,
        reference_ppl=ppl,
        delta=delta,
        window_nlls=list(ours.window_nlls),
        reference_window_nlls=theirs["llama_cpp_nll"],
    )
    assert abs(delta) < TOLERANCE
