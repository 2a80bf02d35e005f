"""A backend in a process of its own: what it holds, and how long it takes from the start of that process to a first token.

python -m edgellm.measure.fresh_process BACKEND MODEL THREADS CONTEXT PROMPT NEW_TOKENS      prints one JSON object
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from edgellm.errors import EdgeLLMError
from edgellm.measure.backends.protocol import BackendFailedError


class FreshProcess(NamedTuple):
    """Of one process, from where this module runs (Python itself has started) to its end.

    import_ns:          to import the backend
    load_ns:            to load the model after that
    ttft_ns:            of the first prompt after that
    first_token_ns:     all three together
    peak_rss_bytes:     the most that was resident, and when all tokens had come
    steady_rss_bytes:   what was resident then; None where the system does not say, ...
    storage_read_bytes: ... as here: what the page cache did not have
    """

    import_ns: int
    load_ns: int
    ttft_ns: int
    first_token_ns: int
    peak_rss_bytes: int
    steady_rss_bytes: int | None
    storage_read_bytes: int | None


def run_in_fresh_process(backend: str, model: str, threads: int, prompt: str, new_tokens: int, context: int) -> FreshProcess:
    """Start one, have it continue the prompt, and wait for its end. BackendFailedError with its last words if it fails."""
    arguments = [backend, model, str(threads), str(context), prompt, str(new_tokens)]
    command = [sys.executable, "-m", "edgellm.measure.fresh_process", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode} and said nothing"]
        raise BackendFailedError(f"{backend} in a fresh process: {last[0]}")
    return FreshProcess(**json.loads(done.stdout.splitlines()[-1]))


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """What the child does."""
    backend, model, threads, context, prompt, new_tokens = arguments
    start = time.perf_counter_ns()
    from edgellm.measure.backends import registry  # the imports are part of what is timed

    registry.loader(backend)
    imported = time.perf_counter_ns()
    loaded_backend = registry.load(backend, model, threads=int(threads), context=int(context))
    loaded = time.perf_counter_ns()
    tokens = loaded_backend.generate(prompt, int(new_tokens))
    if next(tokens, None) is None:
        raise BackendFailedError("it gave no token")
    first = time.perf_counter_ns()
    for _ in tokens:
        pass

    from edgellm.measure.process import OwnProcess

    usage = OwnProcess().usage()
    assert usage.peak_rss_bytes is not None  # every system says that of one's own process
    return FreshProcess(
        import_ns=imported - start,
        load_ns=loaded - imported,
        ttft_ns=first - loaded,
        first_token_ns=first - start,
        peak_rss_bytes=usage.peak_rss_bytes,
        steady_rss_bytes=usage.rss_bytes,
        storage_read_bytes=usage.storage_read_bytes,
    )._asdict()


if __name__ == "__main__":
    try:
        answer = main(sys.argv[1:])
    except EdgeLLMError as error:
        sys.exit(str(error))
    print(json.dumps(answer))
