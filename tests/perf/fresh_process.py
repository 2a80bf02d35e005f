"""One backend in a process of its own: what it holds at most, and how long it takes from import to first token.

python -m tests.perf.fresh_process BACKEND MODEL THREADS      prints one JSON object
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROMPT_TOKENS, DECODED_TOKENS = 128, 64
ROOT = Path(__file__).parents[2]


def run_in_fresh_process(backend: str, model: Path, threads: int) -> dict[str, int]:
    """`peak_rss_bytes` and `import_to_first_token_ns` (load and a prefill of 128 tokens are in it)."""
    command = [sys.executable, "-m", "tests.perf.fresh_process", backend, str(model), str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


def main(backend: str, model: Path, threads: int) -> dict[str, int]:
    """What the child process does."""
    start = time.perf_counter_ns()
    engine = load(backend)(model, threads=threads, context=PROMPT_TOKENS + DECODED_TOKENS)
    engine.prefill(range(PROMPT_TOKENS))
    first_token = time.perf_counter_ns()
    for token in range(DECODED_TOKENS):
        engine.decode(token)

    from edgellm.measure.process import peak_rss_bytes

    return {"import_to_first_token_ns": first_token - start, "peak_rss_bytes": peak_rss_bytes()}


def load(backend: str) -> Any:
    """The backend's class; the import is part of what is timed."""
    if backend == "edgellm":
        from edgellm.measure.backends.edgellm import EdgeLLMBackend

        return EdgeLLMBackend
    from edgellm.measure.backends.llama_cpp import LlamaCppBackend

    return LlamaCppBackend


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
