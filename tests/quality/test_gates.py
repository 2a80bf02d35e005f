"""Schemes beside the baseline, the Q4_1 file dequantised: perplexity, KL divergence and flips, within what budgets.toml allows.

Divergence looks at whole distributions, so a thousand tokens show what takes a whole text to show in perplexity. The windows are the same
in every run and the arithmetic is the same on every machine: a KL divergence or flip rate is judged as it is, and its limit lies closely
above what is right. A perplexity ratio is judged by its interval over windows, drawn in pairs: it fails where the lower end is too much.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

import edgellm
from edgellm.evaluate import data
from edgellm.evaluate.divergence import divergence, window_divergence
from edgellm.evaluate.perplexity import negative_log_likelihoods, ratio, windows_of
from edgellm.measure.budgets import checked_limits, read_profiles
from edgellm.quantize.quantize import Recipe, quantize
from edgellm.runtime.dense_engine import BASELINE, DenseEngine
from edgellm.text.tokenizer import Tokenizer
from tests.conftest import MODEL, Report, converter_digest

pytestmark = pytest.mark.quality

F32 = npt.NDArray[np.float32]

BUDGETS = Path(__file__).parent / "budgets.toml"
WINDOW, WINDOWS = 256, 4
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
    limits = checked_limits(f"{BUDGETS}: [{text}.{scheme}]", read_profiles(BUDGETS)[text][scheme])
    with edgellm.load(model(scheme), threads=1, context=WINDOW) as quantized:
        figures = compared(windows, expected, [quantized.logits(window) for window in windows])
    report(
        "quality_gates",
        f"{text}, {scheme}: " + ", ".join(f"{name} {figure.value:.5f} of {limits[name]:g}" for name, figure in figures.items()),
        text=text,
        scheme=scheme,
        baseline=BASELINE,
        window_tokens=WINDOW,
        windows=WINDOWS,
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


def nll(window: Sequence[int], logits: F32) -> float:
    """The mean of -log p of its tokens after the first."""
    return float(negative_log_likelihoods(logits[:-1], np.array(window[1:])).mean())
