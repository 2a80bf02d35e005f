"""Schemes beside the baseline, the Q4_1 file dequantised: perplexity, KL divergence, flips and answers, within what budgets.toml allows.

Divergence looks at whole distributions, so a thousand tokens show what takes a whole text to show in perplexity. The windows are the same
in every run and the arithmetic is the same on every machine: a KL divergence or flip rate is judged as it is, and its limit lies closely
above what is right. A perplexity ratio is judged by its interval over windows, drawn in pairs: it fails where the lower end is too much.
So is the accuracy that is lost, over items; which choices are others than the baseline's is judged as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

import edgellm
from edgellm.evaluate import data
from edgellm.evaluate.divergence import divergence, window_divergence
from edgellm.evaluate.perplexity import negative_log_likelihoods, ratio, windows_of
from edgellm.measure.budgets import checked_limits, read_profiles
from edgellm.measure.statistics import bootstrap_interval
from edgellm.quantize.quantize import Recipe, quantize
from edgellm.runtime.dense_engine import BASELINE, DenseEngine
from edgellm.text.tokenizer import Tokenizer
from tests import trust
from tests.conftest import MODEL, Report, converter_digest

pytestmark = pytest.mark.quality

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

BUDGETS = Path(__file__).parent / "budgets.toml"
WINDOW, WINDOWS = 256, 4
ITEMS = 60
RECIPES = {"keep": None, "int8": Recipe.named("int8"), "int4-min-g64": Recipe.named("int4-min-g64")}
"""What is quantized in seconds. Calibrated schemes take minutes each: `nox -s quality -- schemes`."""


@dataclass(frozen=True)
class Figure:
    """value: as it came out; judged: what is held against the limit."""

    value: float
    judged: float


@pytest.fixture(scope="module")
def model(model_gguf: Path, model_path: Path) -> Callable[[str], Path]:
    """The file of a scheme, quantized by the code as it is; kept beside the converted one."""

    def made(scheme: str) -> Path:
        recipe = RECIPES[scheme]
        if recipe is None:
            return model_path
        path = model_path.with_name(f"{MODEL}-{converter_digest()}.{recipe.label}.tmac2.bin")
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                quantize(model_gguf, path, recipe, progress=False)
        return path

    return made


@pytest.fixture(scope="module")
def baseline(model_gguf: Path) -> Callable[[str, Tokenizer], tuple[list[Sequence[int]], list[F32]]]:
    """A text's windows, and the baseline's logits of each."""
    dense = DenseEngine(model_gguf, threads=1, context=WINDOW)

    @functools.cache
    def scored(text: str, tokenizer: Tokenizer) -> tuple[list[Sequence[int]], list[F32]]:
        windows = windows_of(tokenizer.encode(data.text(text), special=False, add_special_tokens=False), WINDOW, WINDOWS)
        return windows, [dense.logits(window) for window in windows]

    return scored


@pytest.mark.parametrize("scheme", RECIPES)
@pytest.mark.parametrize("text", ["smoke", "wikitext2_test", "tinyshakespeare"])
def test_scheme_is_within_its_budget(
    text: str,
    scheme: str,
    model: Callable[[str], Path],
    baseline: Callable[[str, Tokenizer], tuple[list[Sequence[int]], list[F32]]],
    engine: edgellm.Engine,
    request: pytest.FixtureRequest,
    report: Report,
) -> None:
    if text != data.SMOKE:
        request.getfixturevalue("evaluation_data")
    windows, expected = baseline(text, engine.tokenizer)
    with edgellm.load(model(scheme), threads=1, context=WINDOW) as quantized:
        figures = compared(windows, expected, [quantized.logits(window) for window in windows])
    judge(report, text, scheme, figures, window_tokens=WINDOW, windows=WINDOWS)


@pytest.mark.parametrize("scheme", ["keep", "int8"])
def test_answers_are_within_their_budget(scheme: str, model: Callable[[str], Path], evaluation_data: Path, report: Report) -> None:
    """Items of HellaSwag; of the baseline, how lm-eval's own model answered them in float32 is in a golden file."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")
    from edgellm.evaluate.adapter import EdgeLM

    requests = trust.requests("hellaswag", ITEMS)
    with edgellm.load(model(scheme), threads=1, context=trust.MAX_LENGTH) as quantized:
        answers = [loglikelihood for loglikelihood, _ in EdgeLM(quantized, progress=False).loglikelihood(requests)]
    ours, theirs = (np.reshape(each, (-1, 4))[:ITEMS].argmax(axis=1) for each in (answers, trust.golden("hellaswag")))
    right = np.array([int(request.doc["label"]) for request in requests[::4]])
    judge(report, "hellaswag", scheme, answered(ours, theirs, right), items=ITEMS)


def judge(report: Report, text: str, scheme: str, figures: Mapping[str, Figure], **about: Any) -> None:
    """Report the figures, and hold them against budgets.toml."""
    limits = checked_limits(f"{BUDGETS}: [{text}.{scheme}]", read_profiles(BUDGETS)[text][scheme])
    report(
        "quality_gates",
        f"{text}, {scheme}: " + ", ".join(f"{name} {figure.value:.5f} of {limits[name]:g}" for name, figure in figures.items()),
        text=text,
        scheme=scheme,
        baseline=BASELINE,
        **about,
        figures={name: {"value": figure.value, "judged": figure.judged, "limit": limits[name]} for name, figure in figures.items()},
    )
    broken = {name: figure for name, figure in figures.items() if figure.judged > limits[name]}
    assert not broken, f"{scheme} on {text} is worse than tests/quality/budgets.toml allows: {broken}, limits {limits}"


def compared(windows: list[Sequence[int]], expected: list[F32], found: list[F32]) -> dict[str, Figure]:
    """By the budgets' names."""
    apart = divergence(window_divergence(theirs, ours) for theirs, ours in zip(expected, found, strict=True))
    over = ratio(*([nll(window, logits) for window, logits in zip(windows, each, strict=True)] for each in (found, expected)))
    assert over.interval.low is not None
    return {
        "ppl_ratio": Figure(over.value, over.interval.low),
        "kl_mean": Figure(apart.kl_mean.value, apart.kl_mean.value),
        "flip_rate": Figure(apart.flip_rate.value, apart.flip_rate.value),
    }


def answered(ours: npt.NDArray[np.intp], theirs: npt.NDArray[np.intp], right: npt.NDArray[np.intp]) -> dict[str, Figure]:
    """Of choices [items], by the budgets' names."""
    rights = [[float(each)] for each in theirs == right], [[float(each)] for each in ours == right]
    low = bootstrap_interval(loss, *rights).low
    assert low is not None
    others = float(np.mean(ours != theirs))
    return {"accuracy_loss": Figure(float(loss(*map(np.ravel, rights))), low), "other_choice": Figure(others, others)}


def loss(theirs: F64, ours: F64) -> F64:
    return np.asarray(theirs.mean(axis=-1) - ours.mean(axis=-1))


def nll(window: Sequence[int], logits: F32) -> float:
    """The mean of -log p of its tokens after the first."""
    return float(negative_log_likelihoods(logits[:-1], np.array(window[1:])).mean())
