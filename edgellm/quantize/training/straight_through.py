"""Rounding that gradients go through: to the nearest level of a scheme's grid, and of activations to int8 as the kernels do it.

Every scheme is one codebook. A group of weights has coefficients a (a scale for each plane, then the minimum, if there is one); its levels
are C a, where the rows of C are what codes can say: (t_1, .., t_P) with trits t, (k) or (k, 1) with integers k. A latent weight is rounded
to its nearest level. Backwards, the latent weight takes the gradient of the level as its own (straight through: Bengio et al., 2013), and a
takes the exact gradient for the codes as they are, C^T g. That is not the gradient of learned step sizes (Esser et al., 2020), which also
counts how rounding moves with a: latent weights do that by themselves.

Scales are rounded to float16, as files hold them, wherever they are used. Shapes: N rows, K columns, J groups of G columns, P planes,
A = P coefficients, or P + 1 with a minimum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgellm.formats.matrix import BLOCK, F32, INTEGER_BITS, QuantizedMatrix, Scheme, pack_codes

SMALLEST = 1e-7
"""Coefficients below it mean 0: float16 ends there, and nothing is divided by them."""
INSIDE = 0.2
"""How far inside its cell a latent weight starts that would round to another level than it shall: a part of the way to the level."""


def column_groups(values: Tensor, scheme: Scheme) -> Tensor:
    """[N, K] as [N, J, G]; zeros fill a last group that is shorter."""
    rows, cols = values.shape
    group = scheme.group if isinstance(scheme.group, int) else cols
    missing = -cols % group
    padded = nn.functional.pad(values, (0, missing)) if missing else values
    return padded.reshape(rows, -1, group)


def nearest(latent: Tensor, coefficients: Tensor, scheme: Scheme) -> Tensor:
    """The codes less the scheme's zero, int8 [P, N, J, G], whose level is nearest to each of the latent weights [N, J, G].

    coefficients: [N, J, A]. Integers are rounded; planes are looked for among their 3^P levels, in order of size.
    """
    if scheme.planes > 1:
        return _nearest_trits(latent, coefficients)
    scale = coefficients[..., :1]
    inverse = torch.where(scale.abs() > SMALLEST, 1 / scale, 0)
    wanted = latent * inverse if not scheme.has_min else (latent - coefficients[..., 1:]) * inverse
    lowest, highest = code_range(scheme)
    return wanted.round_().clamp_(lowest, highest).to(torch.int8)[None]


def code_range(scheme: Scheme) -> tuple[int, int]:
    """The lowest and highest code, less the scheme's zero. int8 stays within +-127, as rounding to nearest does."""
    if scheme.is_trits or scheme.family == "int8":
        return (-1, 1) if scheme.is_trits else (-127, 127)
    return -scheme.zero, (1 << INTEGER_BITS[scheme.family]) - 1 - scheme.zero


def _sorted_levels(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The levels of planes, smallest first, [N, J, 3^P], and their trits [P, N, J, 3^P]."""
    planes = coefficients.shape[-1]
    trits = torch.tensor(list(itertools.product((-1, 0, 1), repeat=planes)), dtype=torch.int8, device=coefficients.device).T
    levels, order = (coefficients[..., None] * trits).sum(dim=-2).sort(dim=-1)  # no matmul: autocast would make it bfloat16
    return levels, torch.stack([trits[p][order] for p in range(planes)])


def _nearest_trits(latent: Tensor, coefficients: Tensor) -> Tensor:
    levels, trits = _sorted_levels(coefficients)
    borders = (levels[..., 1:] + levels[..., :-1]) / 2
    index = torch.zeros(latent.shape, dtype=torch.uint8, device=latent.device)
    for i in range(borders.shape[-1]):
        index += latent > borders[..., i : i + 1]
    chosen = index.long()
    return torch.stack([of_plane.gather(-1, chosen) for of_plane in trits])


class _RoundWeights(torch.autograd.Function):
    """latent [N, J, G], coefficients [N, J, A] -> weights [N, J, G]."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, coefficients: Tensor, scheme: Scheme) -> Tensor:
        codes = nearest(latent, coefficients, scheme)
        ctx.save_for_backward(codes)
        ctx.has_min = scheme.has_min
        return combine(codes, coefficients)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (codes,) = ctx.saved_tensors
        parts = [(gradient * of_plane).sum(dim=-1) for of_plane in codes]
        if ctx.has_min:
            parts.append(gradient.sum(dim=-1))
        return gradient, torch.stack(parts, dim=-1), None


def combine(codes: Tensor, coefficients: Tensor) -> Tensor:
    """C a: [P, N, J, G] and [N, J, A] -> [N, J, G]."""
    weights = codes[0] * coefficients[..., :1]
    for plane in range(1, len(codes)):
        weights += codes[plane] * coefficients[..., plane : plane + 1]
    return weights if coefficients.shape[-1] == len(codes) else weights + coefficients[..., -1:]


class _RoundToHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004  torch's signature
        return values.half().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


def round_weights(latent: Tensor, coefficients: Tensor, scheme: Scheme) -> Tensor:
    """The quantized weights float32 [N, K] of latent weights [N, K] and coefficients [N, J, A] ([1, 1, A]: of the whole tensor)."""
    rows, cols = latent.shape
    groups = column_groups(latent, scheme)
    stored = _RoundToHalf.apply(coefficients).expand(rows, groups.shape[1], -1)
    weights: Tensor = _RoundWeights.apply(groups, stored, scheme)
    return weights.reshape(rows, -1)[:, :cols]


class _RoundActivations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: int) -> Tensor:  # noqa: ARG004
        groups = x.float().unflatten(-1, (-1, group))
        largest = groups.abs().amax(dim=-1, keepdim=True)
        inverse = torch.where(largest > 1e-30, 127 / largest, 0)
        return ((groups * inverse).round_() * (largest / 127)).flatten(-2).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradient, None


def round_activations(x: Tensor, activations: str) -> Tensor:
    """x [.., K] through int8 and back, with a scale per 32 columns or per token, as `formats.checkpoint.ACTIVATIONS` names them."""
    rounded: Tensor = _RoundActivations.apply(x, BLOCK if activations == "int8-g32" else x.shape[-1])
    return rounded


class QuantizedLinear(nn.Module):
    """y = round(x) round(W)^T + bias, with latent weights [N, K] and coefficients [N, J, A] as parameters.

    `frozen` weights [N, K], once set, take the place of rounded ones: to run the same weights again and again.
    """

    def __init__(self, matrix: QuantizedMatrix, wanted: F32, activations: str, bias: Tensor | None = None) -> None:
        super().__init__()
        self.scheme, self.activations = matrix.scheme, activations
        coefficients = coefficients_of(matrix)
        self.latent = nn.Parameter(_latent(matrix, coefficients, torch.from_numpy(wanted)))
        self.coefficients = nn.Parameter(coefficients)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.frozen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [.., K] -> [.., N]."""
        weights = self.rounded() if self.frozen is None else self.frozen
        return nn.functional.linear(round_activations(x, self.activations), weights, self.bias)

    def rounded(self) -> Tensor:
        """The weights [N, K] as they are now."""
        return round_weights(self.latent, self.coefficients, self.scheme)

    def rows(self, index: Tensor) -> Tensor:
        """Some of them, [..] -> [.., K]: what an embedding gives."""
        if self.frozen is not None:
            return self.frozen[index]
        of_rows = self.coefficients if len(self.coefficients) == 1 else self.coefficients[index.flatten()]
        return round_weights(self.latent[index.flatten()], of_rows, self.scheme).view(*index.shape, -1)

    @contextmanager
    def rounded_for_all(self) -> Iterator[None]:
        """While the block runs, weights are rounded once for all its calls; what gradients they have then goes through the rounding."""
        rounded = self.rounded()
        shared = self.frozen = rounded.detach().requires_grad_()
        try:
            yield
        finally:
            self.frozen = None
        rounded.backward(shared.grad)

    def matrix(self) -> QuantizedMatrix:
        """What a file holds of it: codes and scales exactly as `forward` uses them."""
        rows, cols = self.latent.shape
        with torch.no_grad():
            groups = column_groups(self.latent, self.scheme)
            stored = self.coefficients.half()
            codes = nearest(groups, stored.float().expand(rows, groups.shape[1], -1), self.scheme)
        integers = codes.reshape(len(codes), rows, -1)[:, :, :cols].cpu().numpy().astype(np.int16) + self.scheme.zero
        values = stored.cpu().numpy()
        planes = self.scheme.planes
        scales = np.ascontiguousarray(values[:, :, 0] if planes == 1 else values[:, :, :planes])
        minimums = np.ascontiguousarray(values[:, :, -1]) if self.scheme.has_min else None
        return QuantizedMatrix(self.scheme, pack_codes(self.scheme, integers), scales, minimums)


def coefficients_of(matrix: QuantizedMatrix) -> Tensor:
    """Its scales and minimums as float32 [N, J, A]."""
    scales = matrix.scales if matrix.scales.ndim == 3 else matrix.scales[:, :, None]
    parts = [scales] if matrix.minimums is None else [scales, matrix.minimums[:, :, None]]
    return torch.from_numpy(np.concatenate(parts, axis=2).astype(np.float32))


def _latent(matrix: QuantizedMatrix, coefficients: Tensor, wanted: Tensor) -> Tensor:
    """The weights nearest to `wanted` [N, K] that round to the matrix's codes.

    So training starts at the matrix, whoever made it, and the weights for which another level is about as good cross over first.
    """
    scheme, rows, cols = matrix.scheme, *matrix.shape
    groups = column_groups(wanted, scheme)
    a = coefficients.expand(rows, groups.shape[1], -1)
    start = column_groups(torch.from_numpy(matrix.dequantize()), scheme)
    lowest, highest = _cells(start, a, scheme)
    latent = torch.maximum(groups, torch.where(lowest.isfinite(), lowest.lerp(start, INSIDE), lowest))
    latent = torch.minimum(latent, torch.where(highest.isfinite(), highest.lerp(start, INSIDE), highest))
    return latent.reshape(rows, -1)[:, :cols].contiguous()


def _cells(levels: Tensor, coefficients: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """From where to where [N, J, G] weights round to these levels [N, J, G]; the outermost cells have no end."""
    if scheme.planes > 1:
        known, _ = _sorted_levels(coefficients)
    else:
        lowest, highest = code_range(scheme)
        integers = torch.arange(lowest, highest + 1, dtype=torch.int8)
        known, _ = combine(integers[None, None, None], coefficients).sort(dim=-1)
    borders = (known[..., 1:] + known[..., :-1]) / 2
    infinite = torch.full_like(borders[..., :1], torch.inf)
    index = torch.searchsorted(borders.contiguous(), levels.contiguous())
    bounds = torch.cat([-infinite, borders, infinite], dim=-1)
    return bounds.gather(-1, index), bounds.gather(-1, index + 1)
