from __future__ import annotations

import numpy as np
import pytest

from edgellm.measure.figures import figures_of_rounds, figures_of_samples
from edgellm.measure.protocol import Round

MS = 1_000_000


def rounds(*of: tuple[float, list[float]]) -> list[Round]:
    return [Round(round(ttft * MS), [round(each * MS) for each in itl], round((ttft + sum(itl)) * MS)) for ttft, itl in of]


def test_figures_of_rounds() -> None:
    figures = figures_of_rounds(rounds((10, [1, 1, 4]), (12, [1, 1, 2]), (20, [1, 1, 1])), deadline_ms=1.5)
    values = figures.values
    assert (values["ttft_p50_ms"], values["ttft_max_ms"], values["e2e_p50_ms"]) == (12, 20, 16)
    assert values["run_jitter_std_ms"] == pytest.approx(np.std([16, 16, 23], ddof=1)) == values["e2e_std_ms"]
    assert (values["itl_p50_ms"], values["itl_max_ms"], values["itl_max_over_p50"]) == (1, 4, 4)
    assert values["itl_deadline_misses"] == 2
    assert values["tokens_per_second"] == pytest.approx(np.mean([500, 750, 1000]))


def test_no_deadline_no_misses() -> None:
    assert "itl_deadline_misses" not in figures_of_rounds(rounds((1, [1]))).values


def test_one_token_a_round_has_no_inter_token_latency() -> None:
    values = figures_of_rounds(rounds((1, []), (2, []))).values
    assert values["ttft_p50_ms"] == 1.5
    assert not [name for name in values if name.startswith("itl") or name == "tokens_per_second"]


def test_a_single_round_has_no_jitter() -> None:
    values = figures_of_rounds(rounds((3, [1, 2]))).values
    assert not {"run_jitter_std_ms", "ttft_std_ms", "e2e_p99_over_p50"} & set(values)
    assert values["itl_std_ms"] == pytest.approx(np.std([1, 2], ddof=1))


def test_too_few_rounds_for_an_interval_say_how_many_are_needed() -> None:
    hundred, three_hundred = (figures_of_samples("ttft", list(range(1, n + 1))) for n in (100, 300))
    assert hundred.intervals["ttft_p99_ms"].high is None
    assert hundred.rounds_needed == {"ttft_p99_ms": 299}
    assert three_hundred.intervals["ttft_p99_ms"].high is not None
    assert three_hundred.rounds_needed == {}


def test_tokens_of_a_round_are_no_samples_of_their_own() -> None:
    """Of rounds that differ as a whole, a median is less sure than of as many tokens that do not hang together."""
    rng = np.random.default_rng(0)
    levels = rng.normal(10, 1, 50)
    together = figures_of_rounds(rounds(*((5, [level] * 20) for level in levels))).intervals["itl_p50_ms"]
    apart = figures_of_rounds(rounds(*((5, rng.permutation(levels)[:20].tolist()) for _ in levels))).intervals["itl_p50_ms"]
    assert together.low is not None
    assert together.high is not None
    assert apart.low is not None
    assert apart.high is not None
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_a_median_of_zero_gives_no_ratio() -> None:
    values = figures_of_samples("x", [0, 0, 5]).values
    assert values["x_p50_ms"] == 0
    assert not {"x_p99_over_p50", "x_max_over_p50"} & set(values)


def test_tokens_that_all_come_at_once_have_no_rate() -> None:
    values = figures_of_rounds(rounds((5, [0, 0]), (5, [1, 2]))).values
    assert values["itl_max_ms"] == 2
    assert "tokens_per_second" not in values
