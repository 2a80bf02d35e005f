"""GPTQ (Frantar et al., 2023): a matrix's columns rounded one after the other, the error of each made up for by those that are left.

With H = E[x x^T] of the inputs, the error that counts is tr((W - W') H (W - W')^T). The order and what is left to make up come from the
upper Cholesky factor U of H^-1: column i's error, divided by U_ii, is taken off every later column j, times U_ij.

Groups stay contiguous as they are stored. They are taken by descending mean of diag(H), and so are the columns inside (act-order). A
group's scales are fitted when it is entered, on weights that hold the errors made so far, each weighted by 1 / U_ii^2, which is what an
error there costs when all later columns have made up for it.

Shapes: N rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.errors import UnsupportedModelError
from edgellm.formats.matrix import BLOCK, F16, F32, QuantizedMatrix, Scheme, pack_codes
from edgellm.quantize.codebook import Codebook
from edgellm.quantize.rtn import LARGEST

F64 = npt.NDArray[np.float64]

DAMPING = 0.01
"""Of the mean of diag(H), added to it: what the calibration has not seen is not free to change."""
COLUMNS_AT_ONCE = 128
"""Columns after which the ones that are left are brought up to date: a matrix product, rather than as many outer ones."""


@dataclass(frozen=True)
class Rounded:
    """matrix: what is stored. updated: float32 [N, K], what each weight was just before it was rounded."""

    matrix: QuantizedMatrix
    updated: F32


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs to know of a matrix's inputs. hessian: float64 [K, K], damped; order: its columns as they are taken, group by group;
    upper: float32 [K, K], U of the columns in that order.
    """

    hessian: F64
    groups: tuple[npt.NDArray[np.intp], ...]
    upper: F32

    @classmethod
    def of(cls, hessian: F64, group: int) -> Factor:
        """Of E[x x^T], float64 [K, K], for matrices in groups of so many columns."""
        cols, diagonal = len(hessian), np.diag(hessian)
        damped = hessian + np.eye(cols) * (DAMPING * diagonal.mean() or 1.0)
        groups = [np.arange(start, min(start + group, cols)) for start in range(0, cols, group)]
        groups.sort(key=lambda columns: -float(diagonal[columns].mean()))
        ordered = tuple(columns[np.argsort(-diagonal[columns], kind="stable")] for columns in groups)
        order = np.concatenate(ordered)
        inverse = np.linalg.inv(damped[np.ix_(order, order)])
        upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
        return cls(damped, ordered, upper.astype(np.float32))


def columns_of_a_group(scheme: Scheme, cols: int) -> int:
    """How many columns of a row share a scale."""
    return min(scheme.group, cols) if isinstance(scheme.group, int) else cols


def gptq(name: str, weights: F32, factor: Factor, scheme: Scheme) -> Rounded:
    """Quantize float32 [N, K], with a factor of groups as the scheme's.

    name: of the tensor, for the error: UnsupportedModelError if K is no multiple of 32, or a weight is not finite or too large.
    """
    cols = weights.shape[1]
    if cols % BLOCK:
        raise UnsupportedModelError(f"tensor {name} has {cols} columns; {scheme} needs a multiple of {BLOCK}")
    try:
        if not np.abs(weights).max() <= LARGEST:
            raise OverflowError(f"a weight is not finite, or above {LARGEST}")
        return _Rounding(weights, factor, scheme).run()
    except OverflowError as error:
        raise UnsupportedModelError(
            f"tensor {name} has a weight that is not finite, or too large for the float16 scales of {scheme}"
        ) from error


class _Rounding:
    """The state of one matrix's rounding. Everything is transposed, [K, N]: what is done to a column is done to adjacent numbers."""

    def __init__(self, weights: F32, factor: Factor, scheme: Scheme) -> None:
        rows, cols = weights.shape
        self.factor, self.scheme, self.codebook = factor, scheme, Codebook.of(scheme)
        self.left = np.ascontiguousarray(weights.T[np.concatenate(factor.groups)])  # in the order that columns are taken
        self.updated = np.empty((cols, rows), np.float32)
        self.coefficients = np.empty((self.codebook.parameters, cols, rows), np.float32)
        self.parameters = np.empty((self.codebook.parameters, len(factor.groups), rows), np.float32)

    def run(self) -> Rounded:
        """Round every column."""
        group = columns_of_a_group(self.scheme, len(self.left))
        first = 0
        for columns in self.factor.groups:
            parameters = self._fitted(slice(first, first + len(columns)))
            self.parameters[:, columns.min() // group] = parameters
            for start in range(0, len(columns), COLUMNS_AT_ONCE):
                some = columns[start : start + COLUMNS_AT_ONCE]
                self._round(first + start, some, parameters)
            first += len(columns)
        return Rounded(self._matrix(), np.ascontiguousarray(self.updated.T))

    def _fitted(self, taken: slice) -> F32:
        """The parameters [P, N] of the group whose columns are taken next; of a tensor with one scale all rows are one group."""
        w, importance = self.left[taken], 1 / np.square(np.diag(self.factor.upper)[taken])
        importance = importance / importance.mean()
        if self.scheme.group != "tensor":
            return self.codebook.fit(w, importance)
        one = self.codebook.fit(w.reshape(-1, 1), np.repeat(importance, w.shape[1]))
        return np.repeat(one, w.shape[1], axis=1)

    def _round(self, first: int, columns: npt.NDArray[np.intp], parameters: F32) -> None:
        """Round these columns, which are taken from number `first` on, and take their errors off the columns that are left."""
        end = first + len(columns)
        w, upper = self.left[first:end], self.factor.upper[first:end, first:end]
        errors = np.empty_like(w)
        for i, column in enumerate(columns):
            coefficients = self.codebook.nearest(w[i], parameters)
            self.coefficients[:, column], self.updated[column] = coefficients, w[i]
            errors[i] = (w[i] - self.codebook.levels(coefficients, parameters)) / upper[i, i]
            w[i + 1 :] -= upper[i, i + 1 :, None] * errors[i]
        self.left[end:] -= self.factor.upper[first:end, end:].T @ errors

    def _matrix(self) -> QuantizedMatrix:
        codes = np.ascontiguousarray(self.codebook.codes(self.coefficients).transpose(0, 2, 1))
        rows, cols = codes.shape[1:]
        shape = self.scheme.scales_shape(rows, cols)
        stored: F16 = self.parameters.transpose(2, 1, 0)[: shape[0]].astype(np.float16)  # [N, J, P]
        scales = np.ascontiguousarray(stored[:, :, : self.scheme.planes]).reshape(shape)
        minimums = np.ascontiguousarray(stored[:, :, 1]) if self.scheme.has_min else None
        return QuantizedMatrix(self.scheme, pack_codes(self.scheme, codes), scales, minimums)


def output_error(weights: F32, matrix: QuantizedMatrix, hessian: F64) -> tuple[float, float]:
    """tr(E H E^T) of the matrix's error E, and tr(W H W^T): their quotient is the relative squared error of what it puts out."""
    narrow = hessian.astype(np.float32)
    error = weights - matrix.dequantize()
    return _trace(error, narrow), _trace(weights, narrow)


def _trace(w: F32, hessian: F32) -> float:
    return float(np.einsum("nk,nk->", w @ hessian, w, dtype=np.float64))
