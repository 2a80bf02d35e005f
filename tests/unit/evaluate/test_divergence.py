from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from edgellm.errors import NonFiniteError
from edgellm.evaluate.divergence import ROWS_AT_ONCE, WindowDivergence, divergence, window_divergence


def logits(seed: int, rows: int = 2 * ROWS_AT_ONCE + 3, size: int = 50) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return (np.random.default_rng(seed).normal(size=(rows, size)) * 4).astype(np.float32)


def test_against_scipy() -> None:
    baseline, model = logits(0), logits(1)
    found = window_divergence(baseline, model)
    p, q = (np.exp(log_softmax(x.astype(np.float64), axis=1)) for x in (baseline, model))
    np.testing.assert_allclose(found.kl, entropy(p, q, axis=1), rtol=1e-9)
    assert list(found.flipped) == (p.argmax(axis=1) != q.argmax(axis=1)).tolist()


def test_a_model_does_not_diverge_from_itself_nor_by_an_offset() -> None:
    found = window_divergence(logits(0), logits(0) + np.float32(3))
    assert max(found.kl) < 1e-6
    assert min(found.kl) >= 0
    assert not any(found.flipped)


def test_it_grows_with_the_square_of_what_is_wrong() -> None:
    """What makes it sensitive: half the error, a quarter of the divergence."""
    noise = np.random.default_rng(2).normal(size=logits(0).shape).astype(np.float32)
    much, little = (np.mean(window_divergence(logits(0), logits(0) + size * noise).kl) for size in (0.1, 0.05))
    assert much / little == pytest.approx(4, rel=0.05)


def test_extreme_logits_stay_finite() -> None:
    far = np.array([[1e30, 0, -1e30], [0, 0, 1e5]], np.float32)
    assert np.isfinite(window_divergence(far, far[:, ::-1]).kl).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("which", [0, 1])
def test_logits_that_are_not_finite_are_refused(wrong: float, which: int) -> None:
    both = [logits(0), logits(1)]
    both[which][40, 3] = wrong
    with pytest.raises(NonFiniteError, match="after position 40"), np.errstate(invalid="ignore"):
        window_divergence(*both)


def test_figures_of_all_windows() -> None:
    found = divergence([WindowDivergence((0.1, 0.3), (False, True)), WindowDivergence((0.2, 0.4), (False, False))])
    assert found.tokens == 4
    assert found.kl_mean.value == pytest.approx(0.25)
    assert found.kl_median.value == pytest.approx(0.25)
    assert found.kl_p99.value == pytest.approx(np.percentile([0.1, 0.2, 0.3, 0.4], 99))
    assert found.flip_rate.value == 0.25
    assert found.kl_mean.interval == pytest.approx((0.2, 0.3))
    assert found.flip_rate.interval == (0, 0.5)


def test_one_window_has_no_interval() -> None:
    assert divergence([WindowDivergence((0.1, 0.3), (False, True))]).kl_mean.interval == (None, None)
