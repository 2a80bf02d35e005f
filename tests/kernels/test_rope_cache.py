"""Rotary positions and the key/value cache, float16 conversion included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.ops.interface import KEY_TILE, Ops
from tests.kernels import bounds
from tests.kernels.calls import Results, assert_same_bits, assert_within, native_results, reference_results, step
from tests.kernels.data import F32, normal, sprinkled
from tests.kernels.space import Space

HEAD_DIMS = [16, 32, 48, 64, 80, 96, 128, 256]
POSITIONS = [0, 1, 15, 16, 17, 31, 127, 500]
CONTEXT = 640


@dataclass(frozen=True)
class Tables:
    """cos and sin [context, E/2]."""

    cos: F32
    sin: F32

    @classmethod
    def random(cls, rng: np.random.Generator, head_dim: int) -> Tables:
        """Of random angles, so that every position and element has its own."""
        angles = rng.uniform(0, 2 * np.pi, (CONTEXT, head_dim // 2))
        return cls(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))

    @classmethod
    def still(cls, head_dim: int) -> Tables:
        """Which rotate nothing."""
        return cls(np.ones((CONTEXT, head_dim // 2), np.float32), np.zeros((CONTEXT, head_dim // 2), np.float32))


@dataclass(frozen=True)
class Rope:
    """x [L, heads, E] rotated in place from a position on."""

    x: F32
    tables: Tables
    position: int

    def run(self, ops: Ops, space: Space) -> Results:
        length, heads, head_dim = self.x.shape
        x = space.output(length, heads, head_dim, holding=self.x)
        ops.rope(x, space.input(self.tables.cos), space.input(self.tables.sin), step(self.position, length))
        return {"x": x[:-1]}


@dataclass(frozen=True)
class Append:
    """rope(k) and v [L, G, E] stored into a cache that holds ones."""

    k: F32
    v: F32
    tables: Tables
    position: int
    dtype: npt.DTypeLike

    def run(self, ops: Ops, space: Space) -> Results:
        length, heads, head_dim = self.k.shape
        keys = np.ones((heads, CONTEXT // KEY_TILE, head_dim, KEY_TILE), self.dtype)
        cache = space.cache(keys, np.ones((heads, CONTEXT, head_dim), self.dtype), writable=True)
        cos, sin = space.input(self.tables.cos), space.input(self.tables.sin)
        ops.cache_append(cache, space.input(self.k), space.input(self.v), cos, sin, step(self.position, length))
        return {"keys": cache.keys.transpose(1, 3, 0, 2).reshape(CONTEXT, heads, head_dim), "values": cache.values.transpose(1, 0, 2)}


def random_rope(head_dim: int, position: int = 3, length: int = 5, heads: int = 3) -> Rope:
    rng = np.random.default_rng([head_dim, position, length, heads])
    return Rope(normal(rng, length, heads, head_dim), Tables.random(rng, head_dim), position)


def random_append(head_dim: int, position: int, length: int, dtype: npt.DTypeLike, heads: int = 3) -> Append:
    rng = np.random.default_rng([head_dim, position, length, heads])
    k, v = normal(rng, length, heads, head_dim), normal(rng, length, heads, head_dim)
    return Append(k, v, Tables.random(rng, head_dim), position, dtype)


def rotation_bound(x: F32, tables: Tables, position: int) -> npt.NDArray[np.float64]:
    length, _, head_dim = x.shape
    cos, sin = (table[position : position + length, None, :] for table in (tables.cos, tables.sin))
    return np.concatenate(2 * [bounds.rope(x[..., : head_dim // 2], x[..., head_dim // 2 :], cos, sin)], axis=2)


def check_rope(call: Rope, isa: str, threads: int = 1) -> None:
    got = native_results(call, isa, threads)
    assert_same_bits(call, native_results(call, "scalar"), got)
    assert_within(call, "x", reference_results(call)["x"], got["x"], rotation_bound(call.x, call.tables, call.position))


def check_append(call: Append, isa: str, threads: int = 1) -> None:
    got = native_results(call, isa, threads)
    assert_same_bits(call, native_results(call, "scalar"), got)
    expected = reference_results(call)
    assert_same_bits(call, {"values": expected["values"]}, got)
    bound = np.zeros(got["keys"].shape)
    here = slice(call.position, call.position + len(call.k))
    bound[here] = rotation_bound(call.k, call.tables, call.position)
    if call.dtype == np.float16:  # a distance may cross into the next half: one spacing more
        bound[here] += 2 * bounds.F16_U * np.abs(expected["keys"][here].astype(np.float64)) + bounds.F16_TINY
    assert_within(call, "keys", expected["keys"], got["keys"], bound)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_rope_of_every_head_size(isa: str, head_dim: int) -> None:
    for heads in (1, 2, 9):
        check_rope(random_rope(head_dim, heads=heads), isa)


@pytest.mark.parametrize("position", POSITIONS)
def test_rope_at_every_position(isa: str, position: int) -> None:
    for length in (1, 2, 17, 129):
        check_rope(random_rope(64, position, length), isa)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_rope_on_threads(isa: str, threads: int) -> None:
    for length in (1, 2, 7):
        check_rope(random_rope(80, length=length), isa, threads)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_append_of_every_head_size(isa: str, head_dim: int, dtype: npt.DTypeLike) -> None:
    for heads in (1, 3):
        check_append(random_append(head_dim, position=14, length=5, dtype=dtype, heads=heads), isa)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("position", POSITIONS)
def test_append_at_every_position(isa: str, position: int, dtype: npt.DTypeLike) -> None:
    for length in (1, 2, 17, 129):
        check_append(random_append(64, position, length, dtype), isa)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_append_on_threads(isa: str, threads: int) -> None:
    for length in (1, 2, 7):
        check_append(random_append(48, 15, length, np.float16), isa, threads)


@pytest.mark.parametrize("shift", [1, 2, 3, 5, 8])
def test_buffers_need_no_more_than_their_elements_alignment(isa: str, shift: int) -> None:
    for call in (random_rope(48), random_append(48, 15, 3, np.float16), random_append(48, 15, 3, np.float32)):
        assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa, shift=shift))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nasty_floats_give_the_same_bits(isa: str, dtype: npt.DTypeLike) -> None:
    rng = np.random.default_rng(14)
    k, v = sprinkled(rng, 9, 2, 64), sprinkled(rng, 9, 2, 64)
    tables = Tables.random(rng, 64)
    for call in (Rope(k, tables, 3), Append(k, v, tables, 3, dtype), Append(k, v, Tables.still(64), 3, dtype)):
        assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa))


def halfway_floats() -> F32:
    """Every float16; between each and the next the float32 halfway, and those just below and above; and what overflows."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    following = np.append(halves[1:], np.float32(65536))
    between = ((halves.astype(np.float64) + following) / 2).astype(np.float32)  # exact: float32 has 13 bits more
    below, above = np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(np.inf))
    beyond = np.array([65536, 1e5, 3.4e38, np.inf, np.nan, 1e-45, 1e-38, 2.0**-25, 2.0**-24], np.float32)
    positive = np.concatenate([halves, between, below, above, beyond])
    return np.concatenate([positive, -positive])


def test_float16_is_rounded_to_nearest_even(isa: str) -> None:
    """Through the cache: what values and, unrotated, keys become is what NumPy makes of them, ties, subnormals and overflow included."""
    floats = halfway_floats()
    floats = np.append(floats, np.zeros(-len(floats) % (64 * 256), np.float32)).reshape(-1, 64, 256)
    assert len(floats) <= CONTEXT
    k = np.concatenate([floats[..., :128], np.zeros_like(floats[..., :128])], axis=2)  # so that no infinity meets a zero
    call = Append(k, floats, Tables.still(256), 0, np.float16)
    with np.errstate(over="ignore"):
        expected: dict[str, npt.NDArray[Any]] = {"values": floats.astype(np.float16), "keys": k.astype(np.float16)}
    expected["keys"][np.isinf(k).any(axis=2)] = np.nan  # inf * sin, sin = 0, in the other half of the head
    got = native_results(call, isa)
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(k).all(axis=2)
    assert_same_bits(call, {"values": expected["values"]}, {"values": got["values"][: len(floats)]})
    assert_same_bits(call, {"keys": expected["keys"][finite]}, {"keys": got["keys"][: len(floats)][finite]})
