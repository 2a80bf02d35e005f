"""How far a run of measurements is, and how long it will take: a bar on a terminal, a line per measurement elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NoReturn

from tqdm import tqdm

Uncaptured = Callable[[], AbstractContextManager[object]]


class Progress:
    """Of a run of `tests` tests.

    took_s:     what tests took the last time, by name: where known, the time left of the whole run is said
    uncaptured: a context in which what is written reaches the terminal
    """

    def __init__(
        self, took_s: Mapping[str, float], uncaptured: Uncaptured = nullcontext, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.took_s = dict(took_s)
        self._uncaptured, self._clock = uncaptured, clock
        self._to_come: list[str] = []
        self._bar: tqdm[NoReturn] | None = None

    def plan(self, tests: list[str]) -> None:
        """These will run, in this order."""
        self._to_come = list(tests)

    @contextmanager
    def test(self, name: str) -> Iterator[None]:
        """Within it this test runs."""
        start = self._clock()
        yield
        self.took_s[name] = self._clock() - start
        if name in self._to_come:
            self._to_come.remove(name)

    @contextmanager
    def of(self, description: str, rounds: int) -> Iterator[None]:
        """Within it there are so many `step`s."""
        with self._uncaptured():
            self._bar = tqdm(total=rounds, desc=description, unit="round", leave=False, disable=not sys.stderr.isatty())
            self._bar.set_postfix_str(self.left())
            if self._bar.disable:
                sys.stderr.write(f"\n{description}: {rounds} rounds; {self.left() or 'the time left is known from the second run on'} ")
                sys.stderr.flush()
        try:
            yield
        finally:
            with self._uncaptured():
                self._bar.close()
            self._bar = None

    def step(self) -> None:
        """One more round is done."""
        if self._bar is not None and not self._bar.disable:
            with self._uncaptured():
                self._bar.update()

    def left(self) -> str:
        """Of the run, with this test: "4 min left of the run"; "" where that is not known."""
        if not self._to_come or any(name not in self.took_s for name in self._to_come):
            return ""
        seconds = sum(self.took_s[name] for name in self._to_come)
        return f"{seconds / 60:.0f} min left of the run" if seconds >= 90 else f"{seconds:.0f} s left of the run"
