"""-log p of tokens by their logits."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.ops.scoring import Scores, score
from tests.kernels import bounds
from tests.kernels.calls import assert_same_bits, assert_within, pool
from tests.kernels.data import F32

SIZES = [1, 2, 15, 16, 17, 511, 512, 513, 1000, 49152, 49153]


def scored(logits: F32, targets: list[int] | npt.NDArray[np.integer], isa: str, threads: int = 1) -> Scores:
    return score(logits, np.asarray(targets, np.int32), pool(threads), isa)


def rows_of(size: int, spread: float, rows: int = 5) -> tuple[F32, npt.NDArray[np.integer]]:
    rng = np.random.default_rng(size)
    return (rng.normal(size=(rows, size)) * spread).astype(np.float32), rng.integers(size, size=rows)


@pytest.mark.parametrize("spread", [0.01, 3, 40, 1e4])
@pytest.mark.parametrize("size", SIZES)
def test_within_the_bound_of_float64(isa: str, size: int, spread: float) -> None:
    logits, targets = rows_of(size, spread)
    wide = logits.astype(np.float64)
    expected = np.logaddexp.reduce(wide, axis=1) - wide[np.arange(len(wide)), targets]
    nll, greedy = scored(logits, targets, isa)
    assert_within("score", "nll", expected, nll, bounds.score(logits))
    np.testing.assert_array_equal(greedy, logits.argmax(axis=1) == targets)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_as_scalar_on_any_number_of_threads(isa: str, threads: int) -> None:
    for size in SIZES:
        logits, targets = rows_of(size, 5, rows=7)
        expected, got = scored(logits, targets, "scalar"), scored(logits, targets, isa, threads)
        assert_same_bits(f"V {size}", {"nll": expected.nll}, {"nll": got.nll})


def test_equal_logits_have_the_logarithm_of_their_number(isa: str) -> None:
    """The sum is exact then: what is left is the logarithm, which is within 1 ulp."""
    for size in [*range(1, 300), 4096, 49152, 262144]:
        (nll,), (greedy,) = scored(np.full((1, size), 1.5, np.float32), [0], isa)
        assert abs(nll - math.log(size)) <= math.ulp(math.log(size))
        assert greedy


def test_of_equals_the_first_is_greedy(isa: str) -> None:
    logits = np.array([[-0.0, 0.0, -1.0], [0.0, -0.0, -1.0], [-1.0, 2.0, 2.0]], np.float32)
    for target, expected in enumerate(([True, True, False], [False, False, True], [False, False, False])):
        assert scored(logits, [target] * 3, isa).greedy.tolist() == expected


def test_the_greedy_one_is_found_wherever_it_is(isa: str) -> None:
    size = 40
    logits = np.zeros((size, size), np.float32) + np.eye(size, dtype=np.float32)
    assert scored(logits, np.arange(size), isa).greedy.all()
    assert not scored(logits, (np.arange(size) + 1) % size, isa).greedy.any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("at", [0, 7, 15, 16, 30, 599, 600])
def test_logits_that_are_not_finite_have_no_score(isa: str, wrong: float, at: int) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 601)).astype(np.float32)
    logits[1, at] = wrong
    nll, greedy = scored(logits, [at, at, 3], isa)
    assert np.isnan(nll).tolist() == [False, True, False]
    assert not greedy[1]


@pytest.mark.parametrize("offset", [1e5, -1e5, 3e38, -3e38])
def test_extreme_logits_stay_finite(isa: str, offset: float) -> None:
    logits = np.full((1, 700), offset, np.float32)
    logits[0, 3] += 0.01 * abs(offset)
    assert scored(logits, [3], isa).nll[0] == pytest.approx(0, abs=1e-12)
    assert scored(logits, [4], isa).nll[0] == pytest.approx(float(logits[0, 3]) - float(logits[0, 4]))


def test_no_rows_have_no_scores(isa: str) -> None:
    assert scored(np.empty((0, 5), np.float32), [], isa).nll.shape == (0,)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (np.zeros((2, 3)), np.zeros(2, np.int32)),
        (np.zeros((2, 3), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 3), np.float32), np.zeros(3, np.int32)),
        (np.zeros(3, np.float32), np.zeros(1, np.int32)),
        (np.zeros((1, 3), np.float32), np.array([3], np.int32)),
        (np.zeros((1, 3), np.float32), np.array([-1], np.int32)),
        (np.zeros((1, 0), np.float32), np.zeros(1, np.int32)),
        (np.zeros((2, 6), np.float32)[:, ::2], np.zeros(2, np.int32)),
    ],
    ids=["float64", "int64", "more targets", "one dimension", "beyond V", "negative", "no vocabulary", "strided"],
)
def test_what_can_not_be_scored_is_refused(logits: F32, targets: npt.NDArray[np.int32]) -> None:
    with pytest.raises(InvalidRequestError):
        score(logits, targets, pool(1), "scalar")
