from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import log_softmax

from edgellm.errors import InvalidRequestError
from edgellm.evaluate.perplexity import ROWS_AT_ONCE, from_logits, negative_log_likelihoods, of_windows, perplexity, ratio

V = 32


class TableModel:
    """Logits that depend on the token alone; remembers the windows it was given."""

    def __init__(self) -> None:
        self.table_VV = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32)
        self.windows: list[list[int]] = []

    def logits(self, token_ids: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        self.windows.append(list(token_ids))
        return self.table_VV[list(token_ids)]


@pytest.fixture
def ids() -> list[int]:
    return [int(token) for token in np.random.default_rng(1).integers(V, size=100)]


def test_windows_do_not_overlap_and_the_rest_is_dropped(ids: list[int]) -> None:
    model = TableModel()
    result = perplexity(from_logits(model.logits), ids, window=30, progress=False)
    assert model.windows == [ids[0:29], ids[30:59], ids[60:89]]  # the last token's logits are not needed
    assert result.tokens == 3 * 29


def test_against_scipy(ids: list[int]) -> None:
    model = TableModel()
    result = perplexity(from_logits(model.logits), ids, window=50, progress=False)
    log_p_VV = log_softmax(model.table_VV.astype(np.float64), axis=1)
    nlls = [-np.mean([log_p_VV[a, b] for a, b in itertools.pairwise(window)]) for window in (ids[:50], ids[50:])]
    assert result.window_nlls == pytest.approx(nlls, rel=1e-12)
    assert result.nll == pytest.approx(np.mean(nlls))
    assert result.ppl == pytest.approx(math.exp(np.mean(nlls)))
    assert result.nll_stderr == pytest.approx(np.std(nlls, ddof=1) / math.sqrt(2))


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity(ids: list[int]) -> None:
    result = perplexity(from_logits(lambda tokens: np.zeros((len(tokens), V), np.float32)), ids, window=20, windows=1, progress=False)
    assert result.ppl == pytest.approx(V)
    assert result.nll_stderr is None


@pytest.mark.parametrize("rows", [1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1])
@pytest.mark.parametrize("offset", [0, 1e5, -1e5])
def test_extreme_logits_stay_finite(rows: int, offset: float) -> None:
    logits = np.full((rows, V), offset, np.float32)
    logits[:, 3] += 200
    right, wrong = (negative_log_likelihoods(logits, np.full(rows, target)) for target in (3, 4))
    np.testing.assert_allclose(right, 0, atol=1e-12)
    np.testing.assert_allclose(wrong, 200)


@pytest.mark.parametrize(
    ("count", "window", "windows", "problem"),
    [
        (100, 1, None, "must hold at least 2"),
        (100, 30, 4, "4 windows of 30 tokens were asked for; 100 tokens hold 3"),
        (100, 30, 0, "0 windows"),
        (100, 200, None, "100 tokens hold 0"),
        (0, 30, None, "0 tokens hold 0"),
    ],
)
def test_silly_arguments(count: int, window: int, windows: int | None, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        perplexity(from_logits(TableModel().logits), [0] * count, window=window, windows=windows, progress=False)


def test_logits_that_are_not_numbers_are_refused(ids: list[int]) -> None:
    with pytest.raises(InvalidRequestError, match="nan"):
        perplexity(from_logits(lambda tokens: np.full((len(tokens), V), np.nan, np.float32)), ids, window=20, progress=False)


def test_the_same_tokens_are_scored_after_a_bos(ids: list[int]) -> None:
    model = TableModel()
    without, after = (perplexity(from_logits(model.logits), ids, window=30, bos_id=bos, progress=False) for bos in (None, 7))
    assert model.windows[3:] == [[7, *ids[0:29]], [7, *ids[30:59]], [7, *ids[60:89]]]
    assert after.window_nlls == without.window_nlls  # a model that looks at one token alone does not care
    assert after.tokens == without.tokens


def test_a_run_goes_on_with_the_windows_that_are_missing(ids: list[int]) -> None:
    whole = perplexity(from_logits(TableModel().logits), ids, window=20, progress=False)
    model, kept = TableModel(), []
    resumed = perplexity(
        from_logits(model.logits),
        ids,
        window=20,
        known=whole.window_nlls[:3],
        keep=lambda means: kept.append(len(means)),
        progress=False,
    )
    assert resumed == whole
    assert model.windows == [ids[60:79], ids[80:99]]
    assert kept == [4, 5]
    fewer = perplexity(from_logits(model.logits), ids, window=20, windows=2, known=whole.window_nlls, progress=False)
    assert fewer.window_nlls == whole.window_nlls[:2]
    assert len(model.windows) == 2


def test_ratio_is_of_the_perplexities_and_paired() -> None:
    """Windows as different as can be, each harder by the same for the other model: the ratio is as sure as if all were alike."""
    theirs = [1.0, 3.0, 5.0, 2.0, 4.0]
    ours = [nll + 0.05 for nll in theirs]
    found = ratio(ours, theirs)
    assert found.value == pytest.approx(of_windows(ours).ppl / of_windows(theirs).ppl) == pytest.approx(math.exp(0.05))
    assert found.interval == pytest.approx((math.exp(0.05), math.exp(0.05)))
    low, high = ratio([1.1, 3.0, 5.2, 2.0, 4.1], theirs).interval
    assert low is not None
    assert high is not None
    assert 1 < low < math.exp(0.08) < high < math.exp(0.2)
    assert ratio([2.0], [1.0]).interval == (None, None)
