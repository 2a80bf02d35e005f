"""An engine in a process of its own, so that what one asks of the operating system touches no other; they take turns all the same.

python -m tests.perf.variant_process MODEL OPTIONS      then one case per line of standard input, as JSON; answers with nanoseconds
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.bench import Case
from edgellm.ops import native

ROOT = Path(__file__).parents[2]


class VariantProcess:
    """The parent's end. `options` are those of `edgellm.Engine`, and `eager`: op by op rather than the recorded plan.

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
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = EdgeLLMBackend(model, **options)
    print(json.dumps([str(warning.message) for warning in caught]), flush=True)
    for line in sys.stdin:
        print(json.dumps(Case(*json.loads(line)).run(backend)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
