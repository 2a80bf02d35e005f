"""The adapter against lm-eval's own model `hf` (transformers, float32) on the same weights, request by request."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm import Engine
from edgellm.runtime.dense_engine import DenseEngine
from tests import trust
from tests.conftest import Report

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")

from edgellm.evaluate.adapter import EdgeLM

pytestmark = pytest.mark.quality

F64 = npt.NDArray[np.float64]


@pytest.fixture(params=["float32", "int8"])
def lm(request: pytest.FixtureRequest, model_path: Path, engine: Engine, evaluation_data: Path) -> EdgeLM:
    """With activations left as they are, and as the kernels round them."""
    used = DenseEngine(model_path, threads=1, context=trust.MAX_LENGTH) if request.param == "float32" else engine
    return EdgeLM(used, max_length=trust.MAX_LENGTH, progress=False)


def endings(lm: EdgeLM, items: int) -> tuple[F64, F64]:
    """Ours and theirs [items, 4]."""
    ours = [loglikelihood for loglikelihood, _ in lm.loglikelihood(trust.requests("hellaswag", items))]
    return np.reshape(ours, (items, 4)), np.reshape(trust.golden("hellaswag"), (-1, 4))[:items]


def test_some_requests(lm: EdgeLM) -> None:
    """In float32 the same sums in another order; rounding adds about 0.04 nats a token, of either sign."""
    exact = isinstance(lm.engine, DenseEngine)
    ours, theirs = endings(lm, 10 if exact else 50)
    assert np.median(np.abs(ours - theirs)) < (1e-3 if exact else 0.4)
    assert np.abs(np.mean(ours - theirs)) < (1e-3 if exact else 0.2)
    assert np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1)) >= (1 if exact else 0.96)


@pytest.mark.trust
def test_every_request(lm: EdgeLM, report: Report) -> None:
    activations = "float32" if isinstance(lm.engine, DenseEngine) else "int8"
    ours, theirs = endings(lm, trust.ITEMS["hellaswag"])
    record = agreement(ours, theirs) | perplexities(lm)
    nats, same, more = record["median_abs_nats"], record["same_choice"], record["delta_ppl"]
    report(
        "trust",
        f"{activations} activations beside lm-eval's hf, {len(ours)} HellaSwag items: loglikelihoods {nats:.2g} nats apart in the median, "
        f"same choice in {same:.1%}; perplexity of an article {more:+.3%}",
        reference={"backend": "lm-eval's hf", "dtype": "float32", "weights": "the Q4_1 file, dequantised"},
        activations=activations,
        **record,
    )
    if activations == "float32":
        assert record["median_abs_nats"] < 0.02
        assert record["same_choice"] >= 0.99
        assert abs(record["delta_ppl"]) < 0.003


def agreement(ours: F64, theirs: F64) -> dict[str, Any]:
    """Of loglikelihoods [items, choices]."""
    apart = np.abs(ours - theirs)
    return {
        "items": len(ours),
        "median_abs_nats": float(np.median(apart)),
        "p99_abs_nats": float(np.quantile(apart, 0.99)),
        "max_abs_nats": float(apart.max()),
        "mean_nats": float(np.mean(ours - theirs)),
        "same_choice": float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
    }


def perplexities(lm: EdgeLM) -> dict[str, Any]:
    """Of the same articles' tokens."""
    asked = trust.requests("wikitext", trust.ITEMS["wikitext"])
    tokens = sum(len(lm.tok_encode(request.args[0])) for request in asked)
    ours, theirs = math.fsum(lm.loglikelihood_rolling(asked)), math.fsum(trust.golden("wikitext"))
    return {
        "tokens": tokens,
        "ppl": math.exp(-ours / tokens),
        "reference_ppl": math.exp(-theirs / tokens),
        "delta_ppl": math.expm1((theirs - ours) / tokens),
    }
