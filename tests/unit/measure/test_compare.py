"""Comparisons of made-up engines, whose calls take what a seeded generator says: no clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure.compare import FIGURES, Ratio, compare, ratios, resolution, take_turns

CALLS = 96
Run = Callable[[], Sequence[int]]


def engine(seed: int, slower: float = 1.0, stall_share: float = 0.0, drift: Callable[[], float] = lambda: 1.0) -> Run:
    """Rounds of calls of 2.6 ms with a spread of 4%, in bursts of the machine that hit one round in six; times `drift` of the moment."""
    rng = np.random.default_rng(seed)

    def run() -> list[int]:
        calls = 2.6e6 * slower * rng.lognormal(0, 0.04, CALLS) + 5e6 * (rng.random(CALLS) < stall_share)
        if rng.random() < 1 / 6:
            calls[rng.integers(CALLS, size=4)] += rng.exponential(20e6, size=4)
        ns: list[int] = (calls * drift()).astype(int).tolist()
        return ns

    return run


def test_an_engine_against_itself_gives_no_difference() -> None:
    outcomes = [compare(engine(2 * seed), engine(2 * seed + 1), rounds=20).ratios for seed in range(60)]
    for figure in FIGURES:
        covered = np.mean([low is not None and high is not None and low <= 1 <= high for low, high in _intervals(outcomes, figure)])
        assert 0.88 <= covered <= 1, figure


def _intervals(outcomes: list[dict[str, Ratio]], figure: str) -> list[tuple[float | None, float | None]]:
    return [(found[figure].low, found[figure].high) for found in outcomes]


@pytest.mark.parametrize(
    ("slower", "stall_share", "expected"),
    [
        (1.15, 0, {"p50": "slower", "p99_over_p50": "no difference resolved"}),
        (1 / 1.15, 0, {"p50": "faster", "p99_over_p50": "no difference resolved"}),
        (1, 0.02, {"p50": "no difference resolved", "p99": "slower", "jitter": "slower", "p99_over_p50": "slower"}),
        (1.001, 0, {"p50": "no difference resolved"}),
    ],
    ids=["15% slower", "15% faster", "stalls", "too small a difference"],
)
def test_a_difference_is_found_in_the_figure_that_has_it(slower: float, stall_share: float, expected: dict[str, str]) -> None:
    known = resolution(engine(1), rounds=20)
    found = compare(engine(2), engine(3, slower, stall_share), rounds=20).ratios
    assert {figure: found[figure].verdict(known[figure]) for figure in expected} == expected


def test_drift_common_to_both_cancels() -> None:
    """A machine that gets steadily slower, three times by the end: far more than the 5% between the two."""
    steps = count()

    def drift() -> float:
        return 1 + next(steps) / 30

    found = compare(engine(1, drift=drift), engine(2, slower=1.05, drift=drift), rounds=30).ratios["p50"]
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.05 < found.high
    assert found.high - found.low < 0.1


def test_rounds_alternate_their_order_and_warm_up_is_discarded() -> None:
    ran: list[str] = []

    def run(name: str) -> list[int]:
        ran.append(name)
        return [len(ran)]

    turns = take_turns({name: partial(run, name) for name in "abc"}, rounds=3, warmup=1)
    assert list(turns) == [{"a": [6], "b": [5], "c": [4]}, {"a": [7], "b": [8], "c": [9]}, {"a": [12], "b": [11], "c": [10]}]
    assert "".join(ran) == "abccbaabccba"


def interrupted_after(rounds: int, run: Run) -> Run:
    numbers = count()

    def maybe() -> Sequence[int]:
        if next(numbers) == rounds:
            raise KeyboardInterrupt
        return run()

    return maybe


def test_interrupt_keeps_the_pairs_that_are_done() -> None:
    found = compare(engine(1), interrupted_after(5, engine(2)), rounds=100, warmup=1)
    assert found.interrupted
    assert len(found.a_ns) == len(found.b_ns) == 4
    assert found.ratios["p50"].low is not None


def test_interrupt_before_the_first_pair_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        compare(engine(1), interrupted_after(1, engine(2)), rounds=100, warmup=1)


def test_record_holds_every_sample() -> None:
    found = compare(lambda: [1, 3], lambda: [2, 6], rounds=2)
    assert json.loads(json.dumps(found.record(), allow_nan=False)) == {
        "a_ns": [[1, 3], [1, 3]],
        "b_ns": [[2, 6], [2, 6]],
        "ratios": {name: dict.fromkeys(("ratio", "low", "high"), pytest.approx(1 if name == "p99_over_p50" else 2)) for name in FIGURES},
        "interrupted": False,
    }


def test_changing_places_inverts_the_ratio() -> None:
    rounds = [[[int(ns) for ns in engine(seed)()] for _ in range(8)] for seed in (1, 2)]
    there, back = ratios(*rounds), ratios(*reversed(rounds))
    for figure in FIGURES:
        forward, backward = there[figure].ratio, back[figure].ratio
        assert forward is not None
        assert backward is not None
        assert forward * backward == pytest.approx(1)


def test_two_processes_of_a_count_as_one_between_them() -> None:
    assert ratios([[10, 20]], [[40, 80]], [[40, 80]])["p50"].ratio == pytest.approx(2)


def test_one_call_a_round_has_a_median_only() -> None:
    found = ratios([[10], [10]], [[20], [20]])
    assert found["p50"].ratio == pytest.approx(2)
    assert {name for name, ratio in found.items() if ratio.ratio is None} == {"p99", "jitter", "p99_over_p50"}
    assert found["jitter"].verdict(1.1) == "no difference resolved"


def test_no_figure_and_no_interval() -> None:
    assert ratios([[5, 5]], [[5, 6]])["jitter"] == Ratio(None, None, None)  # 0 in the denominator
    single = ratios([[5, 7]], [[10, 14]])["p50"]
    assert single.ratio == pytest.approx(2)
    assert (single.low, single.high) == (None, None)
    assert single.resolution is None
    assert single.verdict(1.1) == Ratio(9, 8, 10).verdict(None) == "no difference resolved"


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 0), (-1, 2), (1, -1)])
def test_rounds_that_measure_nothing_are_refused_before_anything_runs(rounds: int, warmup: int) -> None:
    with pytest.raises(InvalidRequestError, match="at least 1 after at least 0"):
        compare(pytest.fail, pytest.fail, rounds, warmup)


def test_a_round_without_calls_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no samples"):
        compare(list, lambda: [1], rounds=1)


def test_resolution_reaches_to_the_farther_end_of_the_interval() -> None:
    assert Ratio(1, 0.8, 1.05).resolution == 1.25
    assert Ratio(1, 0.9, 1.5).resolution == 1.5
    assert [Ratio(ratio, None, None).difference for ratio in (1.25, 0.8, None)] == [1.25, 1.25, None]
    verdicts = [ratio.verdict(1.25) for ratio in (Ratio(1.4, 1.26, 2), Ratio(1.4, 1.24, 2), Ratio(0.7, 0.5, 0.79), Ratio(0.7, 0.5, 0.81))]
    assert verdicts == ["slower", "no difference resolved", "faster", "no difference resolved"]
