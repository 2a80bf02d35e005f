"""What a model has answered so far, on disk as it comes, so that a run that was stopped goes on where it was.

A file for each key (`edgellm.evaluate.cache`), where that module would put its value, but a journal. Lines of JSON, version 1:

    {"schema": "edgellm-answers", "version": 1, "of": {key}}      the first
    ["sha256 of the request", answer]                             each answer: [loglikelihood, greedy], loglikelihood or text

Which items are asked is no part of the key: who asks more of them later waits only for those that are new.
"""

from __future__ import annotations

import errno
import fcntl
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook, hash_args

from edgellm.errors import EvaluationError
from edgellm.evaluate.cache import Key
from edgellm.formats.atomic import storing
from edgellm.formats.fetch import MOVE_THE_CACHE

SCHEMA = "edgellm-answers"
VERSION = 1


class Answers(CacheHook):  # type: ignore[misc]  # lm_eval has no types
    """The file of a key in `folder`, open and locked while the block runs; a model reports to it through lm-eval's cache hook.

    EvaluationError: another process writes the same file, or it is damaged. FetchError: it cannot be written.
    """

    def __init__(self, folder: Path, key: Key) -> None:
        super().__init__(None)
        self.path = key.path(folder).with_suffix(".jsonl")
        self._head = json.dumps({"schema": SCHEMA, "version": VERSION, "of": asdict(key)}, sort_keys=True).encode() + b"\n"
        self._known: dict[str, Any] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Answers:
        with storing(self.path, MOVE_THE_CACHE):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._file
        self._file.close()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, kind: str, arguments: Iterable[Any]) -> Any:
        """The answer to a request as JSON has it, or None."""
        return self._known.get(hash_args(kind, arguments))

    def add_partial(self, attr: str, req: Iterable[Any], res: Any) -> None:
        """Keep an answer. It is with the system when this returns."""
        self._append(json.dumps([hash_args(attr, req), res]).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        assert self._file
        with storing(self.path, MOVE_THE_CACHE):
            self._file.write(line)
            self._file.flush()

    def _lock(self) -> None:
        assert self._file
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise EvaluationError(f"another run is asking this model the same task; let it end (it writes {self.path})") from error

    def _read(self) -> None:
        """Take what earlier runs were told; a last line without an end, which a killed one left, is cut off."""
        assert self._file
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)
        if not whole:
            self._append(self._head)
            return
        head, *lines = content[:whole].splitlines(keepends=True)
        try:
            self._known = dict(map(json.loads, lines))
        except (ValueError, TypeError, RecursionError) as error:
            raise EvaluationError(f"{self.path} is damaged ({error}); delete it, and everything is asked anew") from error
        if head != self._head:
            raise EvaluationError(f"{self.path} holds the answers of something else, or of another version; delete it")


class Resumed(LM):  # type: ignore[misc]
    """A model that is asked only what it has not answered yet."""

    def __init__(self, lm: LM, answers: Answers) -> None:
        super().__init__()
        self._lm = lm
        self._answers = answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """As the model's own."""
        return [(loglikelihood, greedy) for loglikelihood, greedy in self._answered("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """As the model's own."""
        return self._answered("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """As the model's own."""
        return self._answered("generate_until", requests)

    def _answered(self, kind: str, requests: list[Instance]) -> list[Any]:
        answers = [self._answers.get(kind, request.args) for request in requests]
        missing = [request for request, answer in zip(requests, answers, strict=True) if answer is None]
        new = iter(self._ask(kind, missing) if missing else ())
        return [next(new) if answer is None else answer for answer in answers]

    def _ask(self, kind: str, requests: list[Instance]) -> list[Any]:
        before = self._lm.cache_hook
        self._lm.set_cache_hook(self._answers)
        try:
            answers: list[Any] = getattr(self._lm, kind)(requests)
        finally:  # the file closes sooner than the model is done with
            self._lm.set_cache_hook(before)
        return answers
