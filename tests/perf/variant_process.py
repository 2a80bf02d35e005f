"""An engine in a process of its own, so that what one asks of the operating system touches no other; they take turns all the same.

python -m tests.perf.variant_process MODEL OPTIONS      then, per line of standard input, as JSON: a case, answered with nanoseconds; or
                                                        the path of a file for logits, answered with their number
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.backends.protocol import F32
from edgellm.measure.bench import Case
from edgellm.ops import native
from edgellm.runtime.workspace import Arena
from tests.perf.prompt import PROMPT

ROOT = Path(__file__).parents[2]
TABLES_BYTES = 1 << 20
"""Of all rounded tables: far more than a step needs."""
TOKENS = 32


class VariantProcess:
    """The parent's end. `options` are those of `edgellm.Engine`, `eager`: op by op rather than the recorded plan, and `lut8`: with tables
    that are rounded to 8 bits.

    warnings: what the child was warned of while it loaded: what the operating system refused.
    """

    def __init__(self, model: Path, options: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.perf.variant_process", str(model), json.dumps(dict(options))]
        self._child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.warnings: list[str] = self._answer()

    def run(self, case: Case) -> list[int]:
        """One round of the case: the nanoseconds of each call."""
        assert self._child.stdin is not None
        print(json.dumps(astuple(case)), file=self._child.stdin, flush=True)
        calls_ns: list[int] = self._answer()
        return calls_ns

    def logits(self, path: Path) -> F32:
        """Of the prompt's first TOKENS tokens, each decoded by itself: float32 [TOKENS, V]. `path` is a file for them."""
        assert self._child.stdin is not None
        print(json.dumps(str(path)), file=self._child.stdin, flush=True)
        self._answer()
        logits: F32 = np.load(path)
        path.unlink()
        return logits

    def close(self) -> None:
        """End the child."""
        self._child.communicate()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, f"the process of a variant ended with {self._child.wait()}"
        return json.loads(line)


def main(model: Path, options: dict[str, Any]) -> None:
    """What the child does."""
    if options.pop("eager", False):
        options["make_ops"] = native.Eager
    if options.pop("lut8", False):
        options["make_recorder"] = partial(native.Lut8Recorder, empty=Arena(TABLES_BYTES).empty)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = EdgeLLMBackend(model, **options)
    print(json.dumps([str(warning.message) for warning in caught]), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = save_logits(backend, Path(asked)) if isinstance(asked, str) else Case(*asked).run(backend)
        print(json.dumps(answer), flush=True)


def save_logits(backend: EdgeLLMBackend, path: Path) -> int:
    """What `logits` reads; how many tokens' they are."""
    first, *others = backend.engine.tokenizer.encode(PROMPT)[:TOKENS]
    np.save(path, [backend.prefill([first]).copy(), *(backend.decode(token).copy() for token in others)])
    return 1 + len(others)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
