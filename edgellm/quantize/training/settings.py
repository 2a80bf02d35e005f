"""How layers are trained, as a recipe says it. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rates:
    """Learning rates, each relative to what it moves, so that they fit matrices and schemes of any size.

    weight: of latent weights, in distances between levels
    scale:  of scales and minimums, in the same unit
    norm:   of norms, in their mean magnitude
    """

    weight: float
    scale: float
    norm: float

    @classmethod
    def of(cls, weight: float) -> Rates:
        """What goes well with a rate of latent weights."""
        return cls(weight, 0.05 * weight, 0.1 * weight)


@dataclass(frozen=True)
class LayerSettings:
    """How the layers of a model are trained, one after the other.

    windows, length: so many windows of so many tokens are trained on
    epochs:    how often each of them is met; a step takes one
    rates:     learning rates at first; they fall to 0 like a cosine
    precision: "bfloat16", in which the products are computed while weights and sums stay float32, or "float32"; None: what is faster here
    """

    windows: int = 96
    length: int = 1024
    epochs: int = 3
    rates: Rates = field(default_factory=lambda: Rates.of(1e-2))
    seed: int = 0
    precision: str | None = None
