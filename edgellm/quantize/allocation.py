"""Which scheme each tensor gets: read from a plan, or chosen so that what all of them cost is least within a limit.

A plan is JSON, {"tensors": {name: scheme}}. What `edgellm sensitivity` writes has costs instead, {"tensors": {name: {"schemes": {scheme:
{"bytes": .., "kl": ..}}}}}: the nats that the tensor costs in that scheme, which are taken to add up. Choosing is a knapsack: every tensor
starts at its smallest scheme, and the step that saves most nats a byte is taken next, among each tensor's steps on the lower convex hull of
nats over bytes, which makes that greedy choice the best one up to the last step.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import Scheme


@dataclass(frozen=True)
class Choice:
    """A tensor in a scheme: bytes stored, and nats that it costs."""

    scheme: str
    nbytes: int
    kl: float


Costs = Mapping[str, Sequence[Choice]]


def read(path: Path) -> dict[str, Scheme] | dict[str, list[Choice]]:
    """A plan's schemes, or what schemes cost, by tensor. InvalidRequestError: neither."""
    try:
        tensors = json.loads(path.read_text(encoding="utf-8"))["tensors"]
        if any(isinstance(value, str) for value in tensors.values()):
            return {name: Scheme.parse(scheme) for name, scheme in tensors.items()}
        return {name: [_choice(*item) for item in value["schemes"].items()] for name, value in tensors.items()}
    except OSError as error:
        raise InvalidRequestError(f"the plan {path} cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidRequestError(
            f'{path} is no plan ({{"tensors": {{name: scheme}}}}) and not of `edgellm sensitivity`: {error}'
        ) from error


def _choice(scheme: str, cost: Mapping[str, Any]) -> Choice:
    return Choice(str(Scheme.parse(scheme)), int(cost["bytes"]), float(cost["kl"]))


def within_bytes(costs: Costs, limit: float) -> dict[str, Scheme]:
    """Of all that fit into so many bytes together, (nearly) the one that costs least. InvalidRequestError: none fits."""
    chosen = {name: lower_hull(choices)[0] for name, choices in costs.items()}
    nbytes = sum(choice.nbytes for choice in chosen.values())
    if nbytes > limit:
        raise InvalidRequestError(f"the matrices take {nbytes / 1e6:.1f} MB at least, with the schemes there are, not {limit / 1e6:.1f} MB")
    for name, smaller, larger in _upgrades(costs):
        more = larger.nbytes - smaller.nbytes
        if chosen[name] is smaller and nbytes + more <= limit:
            chosen[name], nbytes = larger, nbytes + more
    return {name: Scheme.parse(choice.scheme) for name, choice in chosen.items()}


def within_nats(costs: Costs, limit: float) -> dict[str, Scheme]:
    """Of all that cost at most so many nats together, (nearly) the smallest. InvalidRequestError: none does."""
    chosen = {name: lower_hull(choices)[0] for name, choices in costs.items()}
    for name, _, larger in _upgrades(costs):
        if math.fsum(choice.kl for choice in chosen.values()) <= limit:
            break
        chosen[name] = larger
    if (nats := math.fsum(choice.kl for choice in chosen.values())) > limit:
        raise InvalidRequestError(f"the matrices cost {nats:.4f} nats at least, with the schemes there are, not {limit:.4f}")
    return {name: Scheme.parse(choice.scheme) for name, choice in chosen.items()}


def _upgrades(costs: Costs) -> list[tuple[str, Choice, Choice]]:
    """Each tensor's steps along its hull, those that save most nats a byte first; of one tensor that is their order on the hull."""
    steps = [(name, *pair) for name, choices in costs.items() for pair in itertools.pairwise(lower_hull(choices))]
    return sorted(steps, key=lambda step: -_slope(step[1], step[2]))


def lower_hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that a line of some price of bytes in nats touches first, by ascending bytes and descending nats."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.nbytes, choice.kl)):
        if hull and choice.kl >= hull[-1].kl:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(smaller: Choice, larger: Choice) -> float:
    """Nats saved a byte."""
    return (smaller.kl - larger.kl) / max(larger.nbytes - smaller.nbytes, 1)
