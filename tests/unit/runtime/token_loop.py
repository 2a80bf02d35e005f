"""What 500 tokens in steady state, in real time, take from the system and from Python.

page_faults   of the whole process, minor and major
mallocs       calls of malloc, calloc and realloc by anything in the process
kept_bytes    what Python's allocators hold more in the second half than in the first
peak_bytes    how much more they held at any moment in between
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.errors import EdgeLLMWarning
from edgellm.runtime.generate import GeneratedToken

ROOT = Path(__file__).parents[3]
SOURCE = Path(__file__).with_name("malloc_count.c")
TOKENS, CONTEXT = 500, 2048
WARM_UP = 300  # beyond 256, up to where Python has every integer anyway
SAMPLING: dict[str, dict[str, float]] = {
    "greedy": {},
    "drawn of 40": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1},
    "drawn of all": {"temperature": 0.8},
}
Figures = dict[str, dict[str, int]]

NEEDS = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallocs are counted under glibc's names"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="something else is preloaded already"),
]


def check(model: Path, folder: Path) -> None:
    """Nothing is taken that should not be."""
    figures = in_a_process_of_its_own(model, folder)
    for name, taken in figures.items():
        assert (taken["page_faults"], taken["mallocs"], taken["kept_bytes"]) == (0, 0, 0), (name, taken)
        assert taken["peak_bytes"] < 2048, (name, taken)


def in_a_process_of_its_own(model: Path, folder: Path) -> Figures:
    """The figures of each way of sampling. The folder is for the library that counts mallocs, which is preloaded."""
    library = folder / "malloc_count.so"
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", SOURCE, "-o", library], check=True)
    env = os.environ | {"LD_PRELOAD": os.fspath(library), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.unit.runtime.token_loop", os.fspath(model)]
    done = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures: Figures = json.loads(done.stdout)
    return figures


def main(model: Path) -> Figures:
    """What that process does."""
    warnings.simplefilter("ignore", EdgeLLMWarning)  # what is refused of real time takes nothing by itself
    with edgellm.load(model, threads=2, context=CONTEXT, realtime=True) as engine:
        engine.tokenizer.eos_ids = frozenset()  # so that nothing ends a text
        return {name: from_the_system(tokens(engine, options)) | from_python(tokens(engine, options)) for name, options in SAMPLING.items()}


def tokens(engine: edgellm.Engine, options: dict[str, Any]) -> Iterator[GeneratedToken]:
    """A generation in its steady state."""
    generation = engine.generate("x", max_tokens=2 * WARM_UP + TOKENS + 1, **options)
    consume(generation, WARM_UP)
    return generation


def consume(generation: Iterator[GeneratedToken], count: int) -> None:
    """Take so many tokens and keep none."""
    for _ in islice(generation, count):
        pass


def from_the_system(generation: Iterator[GeneratedToken]) -> dict[str, int]:
    """page_faults and mallocs."""
    mallocs = ctypes.c_long.in_dll(ctypes.CDLL(None), "malloc_count")
    usage, count = resource.getrusage(resource.RUSAGE_SELF), mallocs.value
    consume(generation, TOKENS)
    count, used = mallocs.value - count, resource.getrusage(resource.RUSAGE_SELF)
    return {"page_faults": used.ru_minflt + used.ru_majflt - usage.ru_minflt - usage.ru_majflt, "mallocs": count}


def from_python(generation: Iterator[GeneratedToken]) -> dict[str, int]:
    """kept_bytes and peak_bytes."""
    readings = np.zeros((TOKENS, 2), np.int64)  # what is held now, and was at most; Python objects would count themselves
    tracemalloc.start()
    consume(generation, WARM_UP)  # what Python keeps for reuse is counted from here on
    tracemalloc.reset_peak()
    for reading in readings:
        consume(generation, 1)
        reading[:] = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held, peak = readings[:, 0], readings[-1, 1]
    least = held.reshape(2, -1).min(axis=1)  # of either half: the token at hand is in every reading, and not always as long
    return {"kept_bytes": int(least[1] - least[0]), "peak_bytes": int(peak - least[0])}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
