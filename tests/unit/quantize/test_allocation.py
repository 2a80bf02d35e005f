"""Schemes by tensor: plans, costs, and what is chosen within a limit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.quantize.allocation import Choice, lower_hull, read, within_bytes, within_nats
from edgellm.quantize.sensitivity import SCHEMES


def random_costs(seed: int, tensors: int = 5) -> dict[str, list[Choice]]:
    rng = np.random.default_rng(seed)
    return {
        f"t{i}": [
            Choice(scheme, int(size), float(nats))
            for scheme, size, nats in zip(SCHEMES, rng.integers(1, 100, 4), rng.exponential(1, 4), strict=False)
        ]
        for i in range(tensors)
    }


def totals(costs: dict[str, list[Choice]], chosen: dict[str, object]) -> tuple[int, float]:
    picked = [next(choice for choice in choices if choice.scheme == str(chosen[name])) for name, choices in costs.items()]
    return sum(choice.nbytes for choice in picked), sum(choice.kl for choice in picked)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_chosen_fits_and_is_near_the_best_of_all(seed: int) -> None:
    costs = random_costs(seed)
    everything = [(sum(c.nbytes for c in pick), sum(c.kl for c in pick)) for pick in itertools.product(*costs.values())]
    smallest, largest = min(nbytes for nbytes, _ in everything), max(nbytes for nbytes, _ in everything)
    limit = (smallest + largest) / 2
    nbytes, nats = totals(costs, dict(within_bytes(costs, limit)))
    assert nbytes <= limit
    step = max(choice.kl for choices in costs.values() for choice in choices)
    assert nats <= min(kl for size, kl in everything if size <= limit) + step
    least = min(kl for _, kl in everything)
    nbytes, nats = totals(costs, dict(within_nats(costs, 2 * least)))
    assert nats <= 2 * least
    assert nbytes <= min(size for size, kl in everything if kl <= 2 * least) + 100


def test_limits_that_nothing_keeps_are_refused() -> None:
    costs = random_costs(0)
    with pytest.raises(InvalidRequestError, match="MB at least, with the schemes there are, not 0.0 MB"):
        within_bytes(costs, 1)
    with pytest.raises(InvalidRequestError, match="nats at least, with the schemes there are, not 0.0000"):
        within_nats(costs, 0)


def test_the_hull_leaves_out_what_no_price_would_choose() -> None:
    a, b, c, d = Choice("a", 10, 5.0), Choice("b", 20, 4.5), Choice("c", 30, 1.0), Choice("d", 40, 2.0)
    assert lower_hull([d, c, b, a]) == [a, c]


def test_plans_and_costs_are_read(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"tensors": {"w": "int4-g32"}}))
    assert {name: str(scheme) for name, scheme in read(tmp_path / "plan.json").items()} == {"w": "int4-g32"}
    (tmp_path / "costs.json").write_text(json.dumps({"tensors": {"w": {"schemes": {"int4-g32": {"bytes": 3, "kl": 0.5}}}}}))
    assert read(tmp_path / "costs.json") == {"w": [Choice("int4-g32", 3, 0.5)]}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"tensors": 1}', '{"tensors": {"w": 1}}', '{"tensors": {"w": {"schemes": {"int4-g32": {}}}}}']
)
def test_what_is_no_plan_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InvalidRequestError, match=r"plan.json is no plan"):
        read(tmp_path / "plan.json")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read(tmp_path / "none.json")
