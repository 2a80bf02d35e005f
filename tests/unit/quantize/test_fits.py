"""Fits of groups of weights: nearest codes, and how far from the optimum, which small groups show by trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.formats.matrix import F32
from edgellm.quantize.fit import Fit
from edgellm.quantize.integers import fit_int8, fit_symmetric, fit_with_minimum
from edgellm.quantize.trits import fit_planes, fit_ternary

F64 = npt.NDArray[np.float64]

FITS: dict[str, Callable[[F32], Fit]] = {
    "int8": fit_int8,
    **{f"int{bits}": partial(fit_symmetric, bits=bits) for bits in (4, 3, 2)},
    **{f"int{bits}-min": partial(fit_with_minimum, bits=bits) for bits in (4, 3, 2)},
    "ternary": fit_ternary,
    **{f"tritplanes{planes}": partial(fit_planes, planes=planes) for planes in (2, 3)},
}


def levels(name: str) -> F64:
    """What a code is worth, as factors of the scale, or scales, or scale and minimum: [codes, factors]."""
    if name == "ternary" or name.startswith("tritplanes"):
        return np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=int(name.removeprefix("tritplanes")) if name != "ternary" else 1)))
    bits = int(name[3])
    if name.endswith("-min"):
        return np.stack([np.arange(2.0**bits), np.ones(2**bits)], axis=1)
    return np.arange(-127.0, 128)[:, None] if bits == 8 else np.arange(-(2.0 ** (bits - 1)), 2 ** (bits - 1))[:, None]


def factors(fit: Fit) -> F64:
    """The scales and minimums that levels are factors of: [M, factors]."""
    parts = [fit.scales] if fit.minimums is None else [fit.scales, fit.minimums]
    return np.concatenate(parts, axis=1).astype(np.float64)


def values(name: str, fit: Fit) -> F64:
    """The weights that the codes stand for."""
    zero = 0 if name == "int8" or fit.minimums is not None else 1 if levels(name).min() == -1 else 2 ** (int(name[3]) - 1)
    codes = fit.codes.astype(np.float64) - zero
    weights: F64 = np.einsum("pmg,mp->mg", codes, fit.scales.astype(np.float64))
    return weights if fit.minimums is None else weights + fit.minimums.astype(np.float64)


def errors(name: str, w: F32, fit: Fit) -> F64:
    """Of each group: [M]."""
    return np.asarray(((w - values(name, fit)) ** 2).sum(axis=1))


def optima(name: str, w: F32) -> F64:
    """The least squared error of groups of few weights, [M]: of every choice of codes, with the least-squares fit of each."""
    choices = levels(name)[np.array(list(itertools.product(range(len(levels(name))), repeat=w.shape[1])))]  # [choices, G, factors]
    inverses = np.linalg.pinv(np.einsum("cgf,cgh->cfh", choices, choices))
    gains = []
    for row in w.astype(np.float64):
        target = np.einsum("cgf,g->cf", choices, row)
        gains.append(np.einsum("cf,cfh,ch->c", target, inverses, target).max())
    return np.asarray((w.astype(np.float64) ** 2).sum(axis=1) - gains)


def normal(*shape: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("name", FITS)
def test_every_weight_has_its_nearest_level(name: str) -> None:
    w = normal(40, 64) * np.float32(0.3)
    w[3] *= 1000
    w[4, 5:] = 0
    fit = FITS[name](w)
    possible = factors(fit) @ levels(name).T  # [M, levels]
    nearest = np.abs(w[:, :, None] - possible[:, None]).min(axis=2)
    found = np.abs(w - values(name, fit))
    assert (found <= nearest + 1e-6 * np.abs(w).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize(
    ("name", "group", "ratio"),
    [("ternary", 9, 1), ("int2", 7, 1.05), ("int2-min", 7, 1.1), ("int3", 5, 1.05), ("int3-min", 5, 1.4), ("tritplanes2", 5, 1.5)],
)
def test_the_error_is_near_the_least_there_is(name: str, group: int, ratio: float) -> None:
    """Exactly the least for ternary. The searches end in local optima where weights are as few as levels, which groups of 32 never are."""
    w = normal(60, group, seed=1)
    least, found = optima(name, w), errors(name, w, FITS[name](w))
    stored = group * (2.0**-10 * np.abs(w).max(axis=1)) ** 2  # scales and minimums are float16
    assert (found >= least - 1e-9).all()
    assert found.sum() <= ratio * least.sum() + stored.sum()
    assert name != "ternary" or (found <= least + stored).all()


def least_of_evenly_spaced(count: int) -> float:
    """The mean squared error of a normal distribution under its best `count` evenly spaced levels (Max, Quantizing for minimum
    distortion, 1960, table II), by trying steps."""
    x = np.linspace(-6, 6, 6001)
    density = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    half = (count - 1) / 2
    steps = np.linspace(0.2, 1.5, 400)[:, None]
    nearest = (np.clip(np.rint(x / steps + half), 0, count - 1) - half) * steps
    return float((density * (x - nearest) ** 2).sum(axis=1).min())


@pytest.mark.parametrize(("name", "count"), [("ternary", 3), ("int2-min", 4), ("int3-min", 8), ("tritplanes2", 9), ("int4-min", 16)])
def test_a_group_errs_less_than_its_distribution_would(name: str, count: int) -> None:
    """64 weights have a scale that fits them, so it is better for them than the best one for all that are like them."""
    w = normal(500, 64, seed=2)
    assert errors(name, w, FITS[name](w)).sum() < least_of_evenly_spaced(count) * (w**2).sum()


@pytest.mark.parametrize("name", FITS)
def test_weights_that_are_levels_stay_what_they_are(name: str) -> None:
    known = levels(name) @ (3.0 ** np.arange(levels(name).shape[1])[::-1] / 16)
    w = np.random.default_rng(3).choice(known, (50, 64))
    w[:, 0], w[:, 1] = known.min(), known.max()
    fit = FITS[name](w.astype(np.float32))
    np.testing.assert_array_equal(values(name, fit), w)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-30, 1e-8, 6e-8])
def test_weights_too_small_for_a_scale_become_nothing_or_nearly(name: str, size: float) -> None:
    w = normal(3, 32) * np.float32(size)
    fit = FITS[name](w)
    assert np.isfinite(factors(fit)).all()
    assert np.abs(values(name, fit) - w).max() <= max(2 * size, 2.0**-24) * 4


@pytest.mark.parametrize("name", FITS)
def test_what_becomes_of_a_group_is_its_own_affair(name: str) -> None:
    """The fit of many groups is the fits of each, bit for bit, so it does not matter how many are fitted together."""
    w = normal(37, 96, seed=4)
    together = FITS[name](w)
    for i in range(37):
        alone = FITS[name](w[i : i + 1])
        assert (alone.codes[:, 0] == together.codes[:, i]).all()
        assert (factors(alone)[0] == factors(together)[i]).all()
