"""A process that runs one build's engine and takes turns with others: the parent asks for a round, and it answers in one line of JSON.

Builds that are compared are of any age, so this file, which both ends run, imports nothing of the package but `edgellm` itself in the
child, and there calls only what every build has.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Work:
    """`tokens` decoded one at a time after `depth` others (`kind` "tg"), or prefilled at once ("pp")."""

    kind: str
    tokens: int
    depth: int

    @classmethod
    def parse(cls, text: str) -> Work:
        """From "tg8@2048" or "pp128"; ValueError for anything else."""
        match = re.fullmatch(r"(?:(tg)(\d+)@(\d+)|(pp)(\d+))", text)
        if not match:
            raise ValueError(f"{text!r} is neither like tg8@2048 nor like pp128")
        return cls("tg", int(match[2]), int(match[3])) if match[1] else cls("pp", int(match[5]), 0)


class BuildError(Exception):
    """A build's process ended before it answered."""


class Build:
    """The parent's end. folder: where the build's `edgellm` lies. A context manager, that ends the process.

    facts: {"file": of the package, "native_file": of its compiled module, "csrc_hash": compiled in}
    """

    def __init__(self, folder: Path, model: Path, threads: int) -> None:
        self._folder = folder
        command = [sys.executable, str(Path(__file__).resolve()), str(model), str(threads)]
        env = os.environ | {"PYTHONPATH": str(folder.resolve())}
        self._child = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is the parent's to handle; the child ends when its input does
        )
        self.facts: dict[str, str] = self._answer()

    def run(self, work: str) -> list[int]:
        """One round: the nanoseconds of each call."""
        calls_ns: list[int] = self._ask(work)
        return calls_ns

    def ops_ns(self) -> dict[str, int]:
        """The last step, repeated op by op: the nanoseconds of each kind."""
        ops_ns: dict[str, int] = self._ask("ops")
        return ops_ns

    def close(self) -> None:
        """End the process."""
        self._child.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, question: str) -> Any:
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which the missing answer shows
            print(question, file=self._child.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self.close()
            raise BuildError(f"the process of the build in {self._folder} ended with {self._child.returncode}; what it said is above")
        return json.loads(line)


def serve(model: str, threads: int) -> None:
    """The child's end."""
    import edgellm
    from edgellm import _native

    def answer(value: object) -> None:
        print(json.dumps(value), flush=True)

    engine = edgellm.load(model, threads=threads)
    csrc_hash = _native.ffi.string(_native.lib.el_csrc_hash()).decode()
    answer({"file": edgellm.__file__, "native_file": _native.__file__, "csrc_hash": csrc_hash})
    for line in sys.stdin:
        if line.strip() == "ops":
            ops_ns: Counter[str] = Counter()
            for name, op_ns in engine.profile():
                ops_ns[name] += op_ns
            answer(ops_ns)
        else:
            answer(run(engine, Work.parse(line.strip())))


def run(engine: Any, work: Work) -> list[int]:
    """Time each call of a round."""
    calls_ns = []
    ids = [i * 7919 % engine.config.vocab_size for i in range(work.depth + work.tokens)]
    if work.kind == "pp":
        engine.reset()
    else:
        engine.prefill(ids[: work.depth])
    for i in range(work.tokens if work.kind == "tg" else 1):
        start = time.perf_counter_ns()
        engine.prefill(ids) if work.kind == "pp" else engine.decode(ids[work.depth + i])
        calls_ns.append(time.perf_counter_ns() - start)
    return calls_ns


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
