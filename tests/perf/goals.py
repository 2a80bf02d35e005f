"""The goals as data (goals.toml), and the board on which each gets its verdict."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.perf.tables import Tables

GOALS = Path(__file__).parent / "goals.toml"


@dataclass(frozen=True)
class Goal:
    """A figure of one of our models and its limit, which is either `at_least` or `at_most`.

    figure:  what is measured; a test of that figure asks for its goals
    ours:    the model, by its name in tests/perf/models.py
    threads: it holds for each of these numbers of threads
    test:    in llama-bench's words, where the figure is one of such a test
    peers:   llama.cpp's types of weights that it is compared with; of those, and of flash attention on and off, the best one counts
    """

    figure: str
    ours: str
    threads: tuple[int, ...]
    test: str = ""
    peers: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        assert (self.at_least is None) != (self.at_most is None), f"{self.figure}: a goal has one limit, at_least or at_most"

    def kept(self, measured: float) -> bool:
        """Whether the figure is within the limit."""
        if self.at_least is not None:
            return measured >= self.at_least
        assert self.at_most is not None
        return measured <= self.at_most

    @property
    def limit(self) -> str:
        """The limit in words."""
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


TITLE = "goals (rtn: rounded to nearest, to be timed; what such a model says is worth nothing)"
HEAD = ("figure", "test", "threads", "ours", "medians", "measured", "goal", "verdict")


def goals(figure: str) -> list[Goal]:
    """The goals for a figure."""
    entries: list[dict[str, Any]] = tomllib.loads(GOALS.read_text(encoding="utf-8"))["goal"]
    frozen: list[dict[str, Any]] = [{key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()} for entry in entries]
    return [Goal(**entry) for entry in frozen if entry["figure"] == figure]


@dataclass(frozen=True)
class Board:
    """Collects verdicts, for the table at the end and as records; where `strict`, a missed goal fails the test that measured it."""

    tables: Tables
    append: Callable[[dict[str, Any]], object]
    strict: bool

    def judge(self, threads: int, *figures: tuple[Goal, float, str]) -> None:
        """A verdict on each goal, from its figure; the text says what that was computed from."""
        missed = []
        for goal, measured, detail in figures:
            kept = goal.kept(measured)
            verdict = (detail, f"{measured:.3g}", goal.limit, "pass" if kept else "MISSED")
            self.tables.add(TITLE, HEAD, (goal.figure, goal.test, str(threads), goal.ours, *verdict))
            self.append({"test": "goal", "goal": asdict(goal), "n_threads": threads, "measured": measured, "kept": kept})
            if not kept:
                missed.append(f"{goal.figure} {goal.test} of {goal.ours} at {threads} threads: {measured:.3g}, not {goal.limit}")
        if self.strict and missed:
            pytest.fail("; ".join(missed), pytrace=False)
