"""Attention: every head size, ratio of heads and number of keys, against scalar C, bit for bit, and NumPy within the bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.ops.interface import KEY_TILE, Ops, Partials
from tests.kernels import bounds
from tests.kernels.calls import Results, assert_same_bits, assert_within, native_results, reference_results, step
from tests.kernels.data import NASTY, normal, sprinkled
from tests.kernels.space import Array, Space

HEAD_DIMS = [16, 32, 48, 64, 80, 96, 128, 256]
RATIOS = [1, 2, 3, 4, 5, 7, 8, 17]  # 17 heads are more rows than are handled together
POSITIONS = [0, 1, 15, 16, 17, 63, 64, 126, 127, 128, 255, 500]  # around tiles and blocks of keys
WINDOWS = [1, 2, 3, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 256, 257]
DTYPES = [np.float16, np.float32]


@dataclass(frozen=True)
class Attention:
    """q [L, H, E] over keys and values [T + L, G, E], within a window; the rest of the cache, up to `context`, holds NaN."""

    q: npt.NDArray[np.float32]
    keys: Array
    values: Array
    scale: float
    context: int
    window: int | None = None

    @property
    def position(self) -> int:
        return len(self.keys) - len(self.q)

    def run(self, ops: Ops, space: Space) -> Results:
        length, heads, head_dim = self.q.shape
        total, kv_heads, _ = self.keys.shape
        keys = np.full((kv_heads, self.context, head_dim), np.nan, self.keys.dtype)
        values = keys.copy()
        keys[:, :total], values[:, :total] = self.keys.transpose(1, 0, 2), self.values.transpose(1, 0, 2)
        tiles = keys.reshape(kv_heads, self.context // KEY_TILE, KEY_TILE, head_dim).transpose(0, 1, 3, 2)
        blocks, arrived = Partials.shapes(heads, kv_heads, head_dim, self.context)
        scratch = Partials(space.empty(blocks, np.float32), space.empty(arrived, np.int32))
        scratch.arrived[:] = 0
        out = space.output(length, heads, head_dim)
        cache, at = space.cache(tiles, values), step(self.position, length)
        ops.attention(out, space.input(self.q), cache, scratch, self.scale, at, self.window)
        return {"out": out[:length], "arrived": scratch.arrived}


def random_attention(
    head_dim: int = 64,
    ratio: int = 3,
    position: int = 17,
    length: int = 1,
    dtype: npt.DTypeLike = np.float16,
    kv_heads: int = 2,
    size: float = 1,
    window: int | None = None,
) -> Attention:
    rng = np.random.default_rng([head_dim, ratio, position, length])
    total = position + length
    keys, values = (normal(rng, total, kv_heads, head_dim, size=size).astype(dtype) for _ in range(2))
    q, context = normal(rng, length, kv_heads * ratio, head_dim, size=size), (total // KEY_TILE + 1) * KEY_TILE
    return Attention(q, keys, values, head_dim**-0.5, context, window)


def assert_near_reference(call: Attention, got: Results) -> None:
    length, heads, head_dim = call.q.shape
    total, kv_heads, _ = call.keys.shape
    q = call.q.reshape(length, kv_heads, -1, head_dim).astype(np.float64)
    keys, values = call.keys.astype(np.float64), call.values.astype(np.float64)
    scores = abs(call.scale) * np.einsum("lgre,tge->lgrt", q, keys)
    sizes = abs(call.scale) * np.einsum("lgre,tge->lgrt", np.abs(q), np.abs(keys))
    largest_value = np.abs(values).max(axis=(0, 2))[None, :, None]
    bound = bounds.attention(sizes.max(axis=3), np.ptp(scores, axis=3), largest_value, total, head_dim)
    assert_within(call, "out", reference_results(call)["out"], got["out"], bound.reshape(length, heads, 1))


def check(call: Attention, isa: str, threads: int = 1) -> None:
    got = native_results(call, isa, threads)
    assert_same_bits(call, native_results(call, "scalar"), got)
    assert_near_reference(call, got)
    assert not got["arrived"].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_head_size_and_ratio(isa: str, head_dim: int, ratio: int, dtype: npt.DTypeLike) -> None:
    check(random_attention(head_dim, ratio, position=18, length=3, dtype=dtype), isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("position", POSITIONS)
def test_every_position(isa: str, position: int, dtype: npt.DTypeLike) -> None:
    for length in (1, 2, 17, 33):
        check(random_attention(position=position, length=length, dtype=dtype), isa)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_odd_number_of_keys(isa: str, dtype: npt.DTypeLike) -> None:
    for keys in range(1, 130, 2):
        check(random_attention(16, ratio=2, position=keys - 1, dtype=dtype), isa)


@pytest.mark.parametrize("kv_heads", [1, 3, 129])
def test_every_number_of_heads(isa: str, kv_heads: int) -> None:
    for ratio in (1, 5):
        check(random_attention(16, ratio, length=2, kv_heads=kv_heads), isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS)
def test_every_window(isa: str, window: int, dtype: npt.DTypeLike) -> None:
    """Rows that are handled together begin and end at other keys, in one block or in two, or see none in common."""
    for position, length in ((0, 1), (63, 2), (127, 5), (128, 1), (250, 33), (500, 1), (511, 3)):
        check(random_attention(48, position=position, length=length, dtype=dtype, window=window), isa)


@pytest.mark.parametrize(
    ("head_dim", "ratio", "kv_heads", "window"), [(256, 4, 1, 512), (96, 1, 4, 515)], ids=["as Gemma 3 270M", "as Phi-3 mini"]
)
def test_shapes_of_models_with_windows(isa: str, head_dim: int, ratio: int, kv_heads: int, window: int) -> None:
    for position, length in ((511, 1), (700, 1), (515, 20)):
        call = random_attention(head_dim, ratio, position, length, kv_heads=kv_heads, window=window)
        check(call, isa, threads=2)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_window_that_hides_nothing_changes_no_bit(isa: str, position: int) -> None:
    for length in (1, 20):
        call = random_attention(position=position, length=length)
        for window in (position + length, call.context, 2**31 - 1, 2**40):
            assert_same_bits(call, native_results(call, isa), native_results(replace(call, window=window), isa))


@pytest.mark.parametrize("position", [128, 200, 300, 511])
def test_whole_blocks_out_of_the_window_might_not_be_there(isa: str, position: int) -> None:
    call = random_attention(position=position, window=position + 1 - 128)
    without = replace(call, keys=call.keys[128:], values=call.values[128:], window=None)
    assert_same_bits(call, native_results(without, isa), native_results(call, isa))


@pytest.mark.parametrize("window", [None, 1, 3, 60, 129])
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("ratio", RATIOS)
def test_threads_change_no_bit(isa: str, threads: int, ratio: int, window: int | None) -> None:
    """Threads share out blocks of keys where there are few rows, and rows where there are many."""
    for position, length in ((17, 1), (300, 1), (300, 2), (300, 5), (127, 40)):
        check(random_attention(48, ratio, position, length, window=window), isa, threads)


def test_tokens_at_once_or_one_by_one_give_the_same_bits(isa: str) -> None:
    """Also where a token begins a block of keys, and where what a token must not see is not finite."""
    call = random_attention(64, ratio=3, position=115, length=23)
    call.keys[-5:], call.values[-3:] = np.inf, np.nan
    together = native_results(call, isa)["out"]
    for token in range(23):
        alone = replace(call, q=call.q[token : token + 1], keys=call.keys[: 116 + token], values=call.values[: 116 + token])
        assert_same_bits(alone, {"out": together[token : token + 1]}, native_results(alone, isa))


@pytest.mark.parametrize("window", [1, 2, 3, 4, 16, 100, 127, 130, 137])
@pytest.mark.parametrize("ratio", [1, 3, 17])
def test_tokens_within_a_window_at_once_or_one_by_one_give_the_same_bits(isa: str, ratio: int, window: int) -> None:
    """Also where what has left a token's window is not finite."""
    call = random_attention(32, ratio, position=240, length=23, window=window)
    call.keys[: 241 - window], call.values[: 241 - window] = np.inf, np.nan  # which no token sees
    together = native_results(call, isa)["out"]
    assert np.isfinite(together).all()
    for token in range(23):
        total = 241 + token
        keys, values = call.keys[:total].copy(), call.values[:total].copy()
        keys[: total - window], values[: total - window] = np.nan, np.inf
        alone = replace(call, q=call.q[token : token + 1], keys=keys, values=values)
        assert_same_bits(alone, {"out": together[token : token + 1]}, native_results(alone, isa))


def test_what_follows_in_the_cache_changes_nothing(isa: str) -> None:
    call = random_attention(position=20)
    assert_same_bits(call, native_results(call, isa), native_results(replace(call, context=256), isa))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [1, 2, 3, 5, 8])
def test_buffers_need_no_more_than_their_elements_alignment(isa: str, shift: int, dtype: npt.DTypeLike) -> None:
    call = random_attention(48, ratio=5, length=3, dtype=dtype)
    assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa, shift=shift))


@pytest.mark.parametrize("size", [10, 100, 1000])
def test_huge_scores(isa: str, size: float) -> None:
    """Up to one key taking all the weight: the softmax neither overflows nor divides by zero."""
    call = random_attention(64, position=100, length=3, dtype=np.float32, size=size)
    check(call, isa)
    assert np.isfinite(native_results(call, isa)["out"]).all()


def test_equal_scores_average_the_values(isa: str) -> None:
    """Also where every score is the lowest float: the largest is subtracted first."""
    for q in (0.0, -3e38):
        call = random_attention(16, position=6, dtype=np.float32)
        still = replace(call, q=np.full_like(call.q, q), keys=np.full_like(call.keys, 0 if q == 0 else 1), scale=1 / 16)
        mean = still.values.astype(np.float64).mean(axis=0).repeat(3, axis=0)[None]
        assert_within(still, "out", mean, native_results(still, isa)["out"], 7 * bounds.gamma(16) * np.abs(still.values).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_nasty_floats_give_the_same_bits(isa: str, dtype: npt.DTypeLike) -> None:
    rng = np.random.default_rng(15)
    base = random_attention(48, ratio=5, position=30, length=4, dtype=dtype)
    with np.errstate(over="ignore"):
        keys, values = sprinkled(rng, *base.keys.shape).astype(dtype), sprinkled(rng, *base.values.shape).astype(dtype)
    nasty_q = sprinkled(rng, *base.q.shape)
    for call in (
        replace(base, q=nasty_q),
        replace(base, keys=keys),
        replace(base, values=values),
        Attention(nasty_q, keys, values, 1.0, KEY_TILE),
    ):
        assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa))


@pytest.mark.parametrize("value", NASTY, ids=str)
def test_one_nasty_key_gives_the_same_bits(isa: str, value: np.float32) -> None:
    base = random_attention(16, ratio=4, position=33, dtype=np.float32)
    for begin, end in pairwise((0, 1, 15, 16, 17, 33, 34)):
        keys = base.keys.copy()
        keys[begin:end] = value
        call = replace(base, keys=keys)
        assert_same_bits(call, native_results(call, "scalar"), native_results(call, isa))


def test_every_float16_value_is_widened_exactly(isa: str) -> None:
    """A single key has weight 1, so the output is its value: 256 heads of 256 elements hold every pattern of bits."""
    values = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 256, 256)
    call = Attention(np.zeros((1, 256, 256), np.float32), np.zeros_like(values), values, 1.0, KEY_TILE)
    with np.errstate(invalid="ignore"):  # NaN among them
        expected = values.astype(np.float32) + np.float32(0)  # -0 becomes 0 when it is added to the sum
    assert_same_bits(call, {"out": expected}, native_results(call, isa))
