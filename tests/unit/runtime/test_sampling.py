from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.errors import EdgeLLMError, InvalidRequestError
from edgellm.runtime.sampling import Sampler, SamplingParams

F32 = npt.NDArray[np.float32]
INF, NAN = float("inf"), float("nan")


def logits_from_integers(vocab_size: int) -> F32:
    """Spread over [-8, 8) in steps that float32 holds exactly, many of them equal."""
    mixed = (np.arange(vocab_size, dtype=np.uint64) * 2654435761) % 2**32 >> 22
    return ((mixed.astype(np.float64) - 512) / 64).astype(np.float32)


class EvenBits:
    """Random bits that run through [0, 1) in `count` even steps, so that frequencies are probabilities to 1/count."""

    def __init__(self, count: int) -> None:
        self._values: Iterator[int] = iter(range(2**63 // count, 2**64, 2**64 // count))

    def random_raw(self) -> int:
        return next(self._values)


def frequencies(logits: list[float], params: SamplingParams, history: list[int] | None = None, count: int = 1024) -> dict[int, float]:
    sampler = Sampler(params, len(logits))
    sampler._bits = EvenBits(count)  # type: ignore[assignment]
    drawn = Counter(sampler.sample(np.array(logits, np.float32), history or []) for _ in range(count))
    return {token: times / count for token, times in drawn.items()}


def probabilities(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """The same filters one after the other, in the words of SamplingParams, over Python lists."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if params.top_k:
        order = order[: params.top_k]
    weights = {i: math.exp((logits[i] - logits[order[0]]) / params.temperature) for i in order}
    total = math.fsum(weights.values())
    kept: list[int] = []
    while order and (params.top_p == 1 or math.fsum(weights[i] for i in kept) < params.top_p * total):
        kept.append(order.pop(0))
    kept = [i for i in kept if weights[i] >= params.min_p]
    total = math.fsum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept if weights[i] > 0}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=3),
        SamplingParams(temperature=1, top_k=1),
        SamplingParams(temperature=1, top_k=4),
        SamplingParams(temperature=1, top_k=99),
        SamplingParams(temperature=1, top_p=0.7),
        SamplingParams(temperature=1, top_p=1e-9),
        SamplingParams(temperature=1, min_p=0.2),
        SamplingParams(temperature=1, min_p=1),
        SamplingParams(temperature=2, top_k=6, top_p=0.8, min_p=0.3),
    ],
    ids=str,
)
@pytest.mark.parametrize("logits", [[0, 3, 1.5, 2.75, -1, 2.75, -INF, 0.25], [1.0] * 7, [-4.0], [5, -INF], [0, -1000, 1000]], ids=str)
def test_tokens_come_as_often_as_they_are_probable(logits: list[float], params: SamplingParams) -> None:
    expected = probabilities(logits, params)
    seen = frequencies(logits, params)
    assert set(seen) <= set(expected)
    for token, probability in expected.items():
        assert seen.get(token, 0) == pytest.approx(probability, abs=2 / 1024)


def test_a_token_of_no_weight_is_never_drawn() -> None:
    for bits in (0, 2**64 - 1):
        sampler = Sampler(SamplingParams(temperature=1), 3)
        sampler._bits = SimpleNamespace(random_raw=lambda bits=bits: bits)  # type: ignore[assignment]
        assert sampler.sample(np.array([-INF, 0, -INF], np.float32)) == 1


def test_the_history_is_penalised() -> None:
    penalty = SamplingParams(temperature=1, repetition_penalty=2)
    penalised = [1.0, 4.0, -2.0, 0.0]  # 2/2, untouched, -1*2, 0
    assert frequencies([2, 4, -1, 0], penalty, history=[0, 2, 3, 0, 0]) == frequencies(penalised, SamplingParams(temperature=1))
    assert Sampler(SamplingParams(repetition_penalty=3), 2).sample(np.array([2, 1], np.float32), [0]) == 1
    for outside in (2, -1, 2**63):
        with pytest.raises(InvalidRequestError, match="outside the vocabulary"):
            Sampler(penalty, 2).sample(np.zeros(2, np.float32), [outside])


def test_the_logits_are_left_alone() -> None:
    logits = logits_from_integers(100)
    before = logits.copy()
    Sampler(SamplingParams(temperature=1, repetition_penalty=1.3, top_k=5), 100).sample(logits, range(100))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_greedy_takes_the_first_of_the_largest(top_k: int) -> None:
    logits = np.array([-INF, 3, 1, 3, -INF], np.float32)
    assert Sampler(SamplingParams(top_k=top_k), 5).sample(logits) == 1


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("penalty", [1, 1.5])
@pytest.mark.parametrize(("bad", "named"), [([0, NAN, 9], "nan"), ([0, INF, 1], "inf"), ([-INF] * 3, "-inf")])
def test_logits_that_mean_nothing_are_refused(bad: list[float], named: str, temperature: float, penalty: float) -> None:
    with pytest.raises(EdgeLLMError, match=f"largest is {named}"):
        Sampler(SamplingParams(temperature=temperature, repetition_penalty=penalty), 3).sample(np.array(bad, np.float32), [1])


def test_logits_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"shape \(3,\).*\(4,\)"):
        Sampler(SamplingParams(), 4).sample(np.zeros(3, np.float32))


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1), SamplingParams(repetition_penalty=2)], ids=str)
def test_only_float32_is_taken_but_wherever_it_lies(params: SamplingParams) -> None:
    with pytest.raises(InvalidRequestError, match="are float64"):
        Sampler(params, 4).sample(np.zeros(4), [0])  # type: ignore[arg-type]
    logits = np.array([0, 9, 1, 9, 90, 9, 2, 9], np.float32)
    assert Sampler(params, 4).sample(logits[::2], np.array([0, 9, 1])[::2]) == 2


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", (-1.0, 1e-9, NAN, INF)),
        ("top_k", (-1,)),
        ("top_p", (0.0, 1.1, NAN)),
        ("min_p", (-0.1, 1.1, NAN)),
        ("repetition_penalty", (0.0, -1.0, INF, NAN)),
        ("seed", (-1,)),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        with pytest.raises(InvalidRequestError, match=f"^{name} is {value}; possible: "):
            SamplingParams(**{name: value})  # type: ignore[arg-type]


GOLDEN = {
    SamplingParams(temperature=1.0, seed=0): [31317, 13279, 2016, 812, 39980, 44879, 29817, 35862],
    SamplingParams(temperature=0.7, seed=1): [25183, 46732, 7095, 46643, 15347, 20816, 40695, 20120],
    SamplingParams(temperature=1.0, top_k=40, seed=2): [11933, 12920, 33825, 3571, 25463, 30631, 7752, 2584],
    SamplingParams(temperature=1.0, top_p=0.9, seed=3): [6676, 16457, 37192, 23065, 32749, 27513, 4545, 45203],
    SamplingParams(temperature=1.0, min_p=0.05, seed=4): [46368, 25141, 47994, 3969, 29859, 18520, 39425, 8582],
    SamplingParams(temperature=0.8, top_k=50, top_p=0.95, min_p=0.02, repetition_penalty=1.1, seed=2**63): [
        39603,
        29644,
        44771,
        21282,
        12920,
        11933,
        25463,
        377,
    ],
}


@pytest.mark.parametrize("params", GOLDEN, ids=str)
def test_golden_ids(params: SamplingParams) -> None:
    """The same on every machine and NumPy version; a change here changes what every seed means."""
    logits = logits_from_integers(49152)
    sampler = Sampler(params, len(logits))
    ids: list[int] = []
    for _ in range(8):
        ids.append(sampler.sample(logits, ids))
    assert ids == GOLDEN[params]
