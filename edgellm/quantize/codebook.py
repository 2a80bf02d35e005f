"""The levels that a scheme gives a group of weights, as one thing for all schemes: level = sum_p coefficient_p * parameter_p.

Of integers the coefficients are (k) or, with a minimum, (k, 1), and the parameters (scale) or (scale, minimum); of P trit-planes they are
the P trits and the P scales. So a fit takes two steps in turn, the same for all: weights to their nearest levels, parameters to their
weighted least squares. Here a group is a column, so that NumPy handles many at once.

Shapes: G weights of a group, N groups side by side, P parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import F32, I8, INTEGER_BITS, Scheme
from edgellm.quantize.fit import SMALLEST, as_stored
from edgellm.quantize.integers import LARGEST_INT8

ROUNDS = 6
PEAKS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35)
"""Of integers: where the weight of largest magnitude may lie at first, in units of the outermost level."""
RANGES = (1.0, 0.9, 0.8, 0.65)
"""With minimums: what part of the range of the weights the levels may span at first."""
TRIT_PEAKS = (1.0, 1.15, 1.35)
RIDGE = 1e-9
"""Of the mean of the diagonal: keeps a fit of fewer different levels than parameters solvable."""


@dataclass(frozen=True)
class Codebook:
    """The levels of a scheme. coefficients: float32 [levels, P], of integers in ascending order."""

    scheme: Scheme
    coefficients: F32

    @classmethod
    def of(cls, scheme: Scheme) -> Codebook:
        """The scheme's."""
        if scheme.is_trits:
            return cls(scheme, np.array(list(itertools.product((-1, 0, 1), repeat=scheme.planes)), np.float32))
        bits = INTEGER_BITS[scheme.family]
        integers = np.arange(1 << bits) - scheme.zero if bits < 8 else np.arange(-LARGEST_INT8, LARGEST_INT8 + 1)
        columns = [integers, np.ones_like(integers)] if scheme.has_min else [integers]
        return cls(scheme, np.stack(columns, axis=1).astype(np.float32))

    @property
    def parameters(self) -> int:
        """P."""
        return int(self.coefficients.shape[1])

    def nearest(self, w: F32, parameters: F32) -> F32:
        """The coefficients [P, ..., N] of the levels nearest to w [..., N], with parameters [P, N]."""
        if self.scheme.is_trits:
            return self._nearest_trits(w, parameters)
        divisor = np.where(parameters[0] == 0, np.float32(np.inf), parameters[0])
        integers = np.rint((w - parameters[1] if self.scheme.has_min else w) / divisor)
        np.clip(integers, self.coefficients[0, 0], self.coefficients[-1, 0], out=integers)
        return np.stack([integers, np.ones_like(integers)]) if self.scheme.has_min else integers[None]

    def _nearest_trits(self, w: F32, scales: F32) -> F32:
        """By counting the borders between neighbouring levels that a weight lies above."""
        levels = self.coefficients @ scales
        order = np.argsort(levels, axis=0, kind="stable")
        ascending = np.take_along_axis(levels, order, axis=0)
        above = np.zeros(w.shape, np.intp)
        for border in (ascending[:-1] + ascending[1:]) / 2:
            above += w > border
        chosen = np.take_along_axis(order, above.reshape(-1, w.shape[-1]), axis=0).reshape(w.shape)
        return np.ascontiguousarray(np.moveaxis(self.coefficients[chosen], -1, 0))

    def levels(self, coefficients: F32, parameters: F32) -> F32:
        """The weights [..., N] that coefficients [P, ..., N] stand for, rounded like `QuantizedMatrix.dequantize`."""
        total: F32 = coefficients[0] * parameters[0]
        for coefficient, parameter in zip(coefficients[1:], parameters[1:], strict=True):
            total = total + coefficient * parameter
        return total

    def codes(self, coefficients: F32) -> I8:
        """Coefficients [P, ...] as codes are stored: int8 [planes, ...]."""
        stored: I8 = (coefficients[: self.scheme.planes] + np.float32(self.scheme.zero)).astype(np.int8)
        return stored

    def fit(self, w: F32, importance: F32) -> F32:
        """Parameters [P, N], rounded to float16, for w [G, N] of little error sum_g importance[g] (w - level)^2; importance [G].

        OverflowError: float16 has no room for them.
        """
        best, best_error = np.zeros((self.parameters, w.shape[1]), np.float32), np.full(w.shape[1], np.inf, np.float32)
        for start in self._starts(w, importance):
            parameters = as_stored(self._improved(w, start, importance)).astype(np.float32)
            error = importance @ np.square(w - self.levels(self.nearest(w, parameters), parameters))
            best, best_error = np.where(error < best_error, parameters, best), np.minimum(error, best_error)
        return best

    def _improved(self, w: F32, parameters: F32, importance: F32) -> F32:
        for _ in range(0 if self._start_is_best else ROUNDS):
            parameters = self.refitted(w, self.nearest(w, parameters), importance)
        return parameters

    @property
    def _start_is_best(self) -> bool:
        """Ternary's start is the optimum, and int8 has so many levels that a search would gain next to nothing."""
        return self.scheme.family in ("ternary", "int8")

    def _starts(self, w: F32, importance: F32) -> Iterator[F32]:
        if self.scheme.family == "ternary":
            yield _best_ternary_scale(w, importance)
        elif self.scheme.is_trits:
            planes = self.scheme.planes
            evenly = 3.0 ** np.arange(planes - 1, -1, -1)[:, None] / ((3**planes - 1) / 2)
            yield from ((np.abs(w).max(axis=0) / peak * evenly).astype(np.float32) for peak in TRIT_PEAKS)
        elif self.scheme.has_min:
            low, high, top = w.min(axis=0), w.max(axis=0), self.coefficients[-1, 0]
            for part in RANGES:
                scale = (high - low) * (np.float32(part) / top)
                yield np.stack([scale, (high + low - scale * top) / 2])
        else:
            yield from self._symmetric_starts(w)

    def _symmetric_starts(self, w: F32) -> Iterator[F32]:
        """With a level more below zero than above it, the weight of largest magnitude is tried at either end: a scale may be negative."""
        high, low = w.max(axis=0), w.min(axis=0)
        extreme = np.where(high > -low, high, low)
        extreme[np.abs(extreme) < SMALLEST] = 0
        outermost = -self.coefficients[0, 0]
        if self._start_is_best:
            yield (np.abs(extreme) / outermost)[None]
            return
        for peak, sign in itertools.product(PEAKS, (-1, 1)):
            yield (extreme / (outermost * np.float32(sign * peak)))[None]

    def refitted(self, w: F32, coefficients: F32, importance: F32) -> F32:
        """The parameters [P, N] of least error for these coefficients [P, G, N]."""
        products = np.einsum("g,pgn,qgn->npq", importance, coefficients, coefficients, optimize=True)
        right = np.einsum("g,gn,pgn->np", importance, w, coefficients, optimize=True)
        return _solved(products, right).T.astype(np.float32)


def _solved(products: F32, right: F32) -> npt.NDArray[np.float64]:
    """[N, P, P] systems' solutions [N, P]; zeros where there is nothing to fit."""
    wide: npt.NDArray[np.float64] = products.astype(np.float64)
    diagonal = np.arange(products.shape[1])
    wide[:, diagonal, diagonal] += RIDGE * wide[:, diagonal, diagonal].mean(axis=1, keepdims=True) + SMALLEST
    solution: npt.NDArray[np.float64] = np.asarray(np.linalg.solve(wide, right.astype(np.float64)[:, :, None])[:, :, 0], np.float64)
    return solution


def _best_ternary_scale(w: F32, importance: F32) -> F32:
    """[1, N]: the k weights of largest magnitude not zero, for the best k: their weighted mean magnitude (see `trits.fit_ternary`)."""
    order = np.argsort(-np.abs(w), axis=0, kind="stable")
    weights = importance.astype(np.float64)[order]
    totals = np.cumsum(weights * np.abs(np.take_along_axis(w, order, axis=0)), axis=0)
    counts = np.cumsum(weights, axis=0)
    best = (totals**2 / counts).argmax(axis=0)[None]
    scale: F32 = (np.take_along_axis(totals, best, axis=0) / np.take_along_axis(counts, best, axis=0)).astype(np.float32)
    return scale
