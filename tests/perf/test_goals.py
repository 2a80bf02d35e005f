"""The goals' board: every goal gets a verdict, and a missed one fails where goals decide."""

from __future__ import annotations

from typing import Any

import pytest

from tests.perf.goals import TITLE, Board, Goal
from tests.perf.tables import Tables

pytestmark = pytest.mark.perf

SPEEDUP = Goal("speedup", ours="Q4_1", threads=(2,), test="tg64", at_least=3.0)
JITTER = Goal("itl_p99_over_p50", ours="Q4_1", threads=(2,), at_most=1.1)


def test_every_goal_gets_a_verdict_and_a_missed_one_fails_where_goals_decide() -> None:
    figures = ((SPEEDUP, 2.9, "58 ms; 20 ms"), (JITTER, 1.1, "p50 2 ms"))
    records: list[dict[str, Any]] = []
    tables = Tables()
    Board(tables, records.append, strict=False).judge(2, *figures)
    rows = [[cell.strip() for cell in line.split("|")] for line in tables.shown()[TITLE].splitlines()[2:]]
    assert [row[-4:-1] for row in rows] == [["2.9", ">= 3", "MISSED"], ["1.1", "<= 1.1", "pass"]]
    assert [(record["goal"]["figure"], record["kept"]) for record in records] == [("speedup", False), ("itl_p99_over_p50", True)]
    with pytest.raises(pytest.fail.Exception, match=r"speedup tg64 of Q4_1 at 2 threads: 2\.9, not >= 3$"):
        Board(Tables(), records.append, strict=True).judge(2, *figures)
    assert len(records) == 4


@pytest.mark.parametrize("limits", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_goal_has_one_limit(limits: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="one limit"):
        Goal("speedup", ours="Q4_1", threads=(1,), **limits)
