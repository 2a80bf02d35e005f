from __future__ import annotations

from itertools import count

import pytest

from edgellm.measure.progress import Progress


def test_time_left_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Known when every test to come was timed before; a test that ran now took what it took now."""
    ticks = count(0, 30)
    progress = Progress({"a": 100.0, "b": 60.0}, clock=lambda: next(ticks))
    assert progress.left() == ""
    progress.plan(["a", "b"])
    assert progress.left() == "3 min left of the run"
    with progress.test("a"), progress.of("a: rounds", 2):
        progress.step()
    assert progress.took_s == {"a": 30, "b": 60}
    assert progress.left() == "60 s left of the run"
    progress.plan(["b", "new"])
    assert progress.left() == ""
    assert "a: rounds: 2 rounds; 3 min left of the run" in capsys.readouterr().err


def test_how_long_a_test_takes_that_breaks_off_is_not_known() -> None:
    progress = Progress({})
    progress.plan(["a"])
    with pytest.raises(KeyError), progress.test("a"):
        raise KeyError
    assert progress.left() == ""
