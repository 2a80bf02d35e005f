"""The models of the catalogue as the tests run them, and the figures that are compared: shared by tests/parity and tests/e2e."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from edgellm.formats import fetch
from edgellm.quantize.convert import convert
from edgellm.quantize.quantize import Recipe, quantize
from tests.conftest import ROOT, converter_digest

GOLDEN = ROOT / "tests" / "golden" / "models.json"
GOLDEN_LOGITS = ROOT / "tests" / "golden" / "models_{name}.npz"
RECIPES: dict[str, Recipe | None] = {"smollm2-135m": None, "gemma-3-270m": Recipe.named("int8"), "qwen2.5-coder-0.5b": Recipe.named("int8")}
"""How each is made into a model file; None: losslessly."""

PROMPTS = ("english", "c")
"""Of tests/parity/corpus.py."""

GREEDY_TOKENS = 64
WINDOWS, WINDOW = 8, 512
SAMPLED = 64
"""Logits of a position that are recorded beside its best five."""


def weights_of(name: str) -> str:
    """What the model file holds, in a word."""
    recipe = RECIPES[name]
    return "lossless" if recipe is None else recipe.label


@cache
def converted(name: str) -> Path:
    """The model file, made by the code as it is; kept in this checkout until it is unused for a day."""
    folder = ROOT / "build" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-parity-{converter_digest()}.tmac2.bin"
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            source, recipe = fetch.pull(name, progress=False), RECIPES[name]
            if recipe is None:
                convert(source, path, progress=False)
            else:
                quantize(source, path, recipe, progress=False)
        path.touch()
        for other in folder.glob(f"{name}-parity-*.tmac2.bin"):
            if time.time() - other.stat().st_mtime > 24 * 3600:
                other.unlink()
    return path


def windows(text_ids: list[int], bos: int | None) -> list[int]:
    """WINDOWS windows of WINDOW tokens, one after the other; each starts with a BOS token where the model has one before every text."""
    taken = WINDOW if bos is None else WINDOW - 1
    before = [] if bos is None else [bos]
    return [token for i in range(WINDOWS) for token in [*before, *text_ids[i * taken : (i + 1) * taken]]]


def sampled_ids(position: int, vocab: int) -> npt.NDArray[np.intp]:
    """The SAMPLED tokens whose logits are recorded at a position: so many apart, from a start that moves with the position."""
    stride = vocab // SAMPLED
    return position % stride + stride * np.arange(SAMPLED)
