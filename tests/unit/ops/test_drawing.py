from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgellm.errors import InvalidRequestError
from edgellm.ops.drawing import Drawing
from edgellm.runtime.sampling import SamplingParams
from tests.unit.ops import drawing

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
INF, NAN = float("inf"), float("nan")
ALMOST_ONE = 1 - 2.0**-53
NOTHING = np.empty(0, np.int64)
OFF = SamplingParams(temperature=1)


def drawn_by(params: SamplingParams, size: int, isa: str | None = None) -> Drawing:
    return Drawing(size, isa=isa, **{name: value for name, value in asdict(params).items() if name != "seed"})


def assert_same_bits(params: SamplingParams, logits: F32, history: I64, uniform: float, isa: str) -> None:
    in_c = drawn_by(params, len(logits), isa)
    token = in_c.draw(logits, history, uniform)
    expected_token, expected_ids, expected_sums = drawing.draw(params, logits, history, uniform)
    ids, sums = in_c.candidates
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(sums.view(np.int64), expected_sums.view(np.int64))
    assert token == expected_token


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([1e-6, 0.7, 1.0, 3.0, 1e6]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 300, 10**9]),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, ALMOST_ONE, 1.0]),
    min_p=st.sampled_from([0.0, 1e-3, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
)
LOGITS = st.one_of(
    arrays(np.float32, st.integers(1, 700), elements=st.sampled_from([-INF, -1.5, -0.0, 0.0, 1e-30, 2.0, 2.25])),
    arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
)


@given(params=PARAMS, logits=LOGITS, data=st.data())
def test_the_same_bits_as_numpy(isa: str, params: SamplingParams, logits: F32, data: st.DataObject) -> None:
    logits[data.draw(st.integers(0, len(logits) - 1))] = 1  # so that they are not all -inf
    history = np.array(data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=5)), np.int64)
    assert_same_bits(params, logits, history, data.draw(st.sampled_from([0.0, 0.25, 0.999, ALMOST_ONE])), isa)


@pytest.mark.parametrize(
    "params",
    [
        OFF,
        SamplingParams(temperature=0.7, top_p=0.9),
        SamplingParams(temperature=2, top_p=ALMOST_ONE),
        *(SamplingParams(temperature=1, top_k=k) for k in (50, 1024, 1025, 49151)),
    ],
    ids=str,
)
@pytest.mark.parametrize("spread", [0, 1, 8, 300])
def test_the_same_bits_of_a_whole_vocabulary(isa: str, params: SamplingParams, spread: float) -> None:
    """Of as many tokens as models have, and one more; flat, usual, and so steep that most have no weight."""
    rng = np.random.default_rng(3)
    for size in (49152, 49153):
        logits = rng.normal(scale=spread, size=size).astype(np.float32)
        assert_same_bits(params, logits, rng.integers(0, size, 100), rng.random(), isa)


@pytest.mark.parametrize("k", [512, 1024, 1025, 1999])
def test_equals_stay_in_order_however_many_are_kept(isa: str, k: int) -> None:
    logits = np.random.default_rng(4).choice(np.array([-INF, -3, -2.5, -0.0, 0.0, 1e-30, 2], np.float32), 2000)
    assert_same_bits(SamplingParams(temperature=1, top_k=k), logits, NOTHING, 0.5, isa)


@given(x=arrays(np.float64, 50, elements=st.floats(drawing.EXP_UNDERFLOW, 0)))
def test_exp_is_within_two_ulp(x: npt.NDArray[np.float64]) -> None:
    exact = np.array([math.exp(value) for value in x])
    assert np.all(np.abs(drawing.exp(x) - exact) < 2 * np.spacing(exact))


def test_exp_at_its_edges() -> None:
    below = np.nextafter(drawing.EXP_UNDERFLOW, -INF)
    assert drawing.exp(np.array([0.0, -0.0, -INF, below, -1e300, -5e-324])).tolist() == [1, 1, 0, 0, 0, 1]
    assert drawing.exp(np.array([drawing.EXP_UNDERFLOW]))[0] == math.exp(drawing.EXP_UNDERFLOW)


def test_weights_at_the_edges_of_exp(isa: str) -> None:
    """The same edges in C: at temperature 1 a weight is exp of the distance from the best logit. The smallest come first, as the sum of
    all would swallow them.
    """
    edge = np.float32(drawing.EXP_UNDERFLOW)
    logits = np.array([-INF, -3e38, np.nextafter(edge, np.float32(-INF)), edge, np.nextafter(edge, np.float32(0)), -0.0, 0], np.float32)
    assert_same_bits(OFF, logits, NOTHING, 0.0, isa)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 100])
def test_the_best_is_found_wherever_it_is(size: int) -> None:
    """At temperature 0, which the penalty leaves to C; NaN comes before anything, and the first of equals before the others."""
    greedy = drawn_by(SamplingParams(), size)
    for at in range(size):
        logits = np.full(size, -1, np.float32)
        logits[at:] = 3
        assert greedy.draw(logits, NOTHING, 0.0) == at
        logits[at] = NAN
        assert greedy.draw(logits, NOTHING, 0.0) == -1 - at
        logits[:] = 0
        logits[at] = INF
        assert greedy.draw(logits, NOTHING, 0.0) == -1 - at
    assert greedy.draw(np.full(size, -INF, np.float32), NOTHING, 0.0) == -1


def test_what_can_not_be_drawn_is_refused() -> None:
    zeros = np.zeros(4, np.float32)
    for size in (0, -1, 1 << 30):
        with pytest.raises(InvalidRequestError, match="can't be drawn"):
            drawn_by(OFF, size)
    for logits, history in (
        (np.zeros(3, np.float32), NOTHING),
        (np.zeros(4), NOTHING),
        (zeros, np.zeros(2, np.int32)),
        (zeros, np.zeros((1, 2), np.int64)),
    ):
        with pytest.raises(InvalidRequestError, match="were expected"):
            drawn_by(OFF, 4).draw(logits, history, 0.5)  # type: ignore[arg-type]
    for outside in (-1, 4):
        with pytest.raises(InvalidRequestError, match="outside the vocabulary"):
            drawn_by(OFF, 4).draw(zeros, np.array([0, outside]), 0.5)
    for uniform in (1.0, -0.1, NAN):
        with pytest.raises(InvalidRequestError, match="from 0 to 1"):
            drawn_by(OFF, 4).draw(zeros, NOTHING, uniform)
    with pytest.raises(InvalidRequestError, match="contiguous"):
        drawn_by(OFF, 4).draw(np.zeros(8, np.float32)[::2], NOTHING, 0.5)
