"""Memory: aligned, zeroed, sized for what is handed out, and refused in words."""

from __future__ import annotations

import mmap
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.model.config import ModelConfig
from edgellm.runtime.weights import load_weights
from edgellm.runtime.workspace import Arena, aligned, new_cache, new_state, with_lookup_room
from tests.unit.runtime.synthetic import CONFIG, checkpoint

SHAPES: list[tuple[int, ...]] = [(1,), (3, 5), (64,), (0, 7), (7, 64, 3)]
CONFIGS: list[dict[str, Any]] = [
    {},
    {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256},
    {"model_type": "gemma3_text", "sliding_window": 16},
    {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 1, "num_attention_heads": 2, "num_hidden_layers": 1},
]


def config(**changes: Any) -> ModelConfig:
    return ModelConfig.from_hf(CONFIG | changes)


@pytest.mark.parametrize("huge_pages", [False, True])
def test_arrays_are_aligned_zeroed_and_apart(huge_pages: bool) -> None:
    arena = Arena(1 << 16, huge_pages)
    arrays = [arena.empty(shape, dtype) for shape in SHAPES for dtype in (np.float32, np.float16, np.int8)]
    for array in arrays:
        assert array.ctypes.data % 64 == 0
        assert not array.any()
    for i, array in enumerate(arrays):
        array[...] = i + 1
    for i, array in enumerate(arrays):
        assert (array == i + 1).all()
    assert arena.nbytes == sum(aligned(array.nbytes) for array in arrays)


def test_more_than_an_arena_holds_is_not_handed_out() -> None:
    arena = Arena(128)
    arena.empty((32,), np.float32)
    with pytest.raises(ValueError, match="reshape"):
        arena.empty((1,), np.float32)


@pytest.mark.parametrize("nbytes", [1 << 60, 1 << 70])
def test_memory_that_can_not_be_had_is_refused(nbytes: int) -> None:
    with pytest.raises(
        InvalidRequestError, match=f"{nbytes >> 20} MiB of memory can't be had: .*; load a smaller model or ask for a smaller context"
    ):
        Arena(nbytes)


def test_a_kernel_without_huge_pages_serves_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999, raising=False)  # no kernel knows this advice: EINVAL, as where it lacks huge pages
    with pytest.raises(OSError, match="Invalid argument"):
        mmap.mmap(-1, 4096).madvise(9999)
    assert not Arena(4096, huge_pages=True).empty((16,), np.float32).any()


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
@pytest.mark.parametrize(("length", "context"), [(1, 64), (128, 512), (7, 192)])
def test_the_state_fits_its_arena(changes: dict[str, Any], length: int, context: int) -> None:
    """`_state_bytes` is an upper bound; the arena raises where it is not."""
    given = config(**changes)
    cache, cache_arena = new_cache(given, context, np.float16)
    state, state_arena = new_state(given, cache, length, context)
    assert state.logits_LV.shape == (length, given.vocab_size)
    assert state.partials.blocks.shape == (given.num_key_value_heads, -(-context // 128), 16 * (given.head_dim + 2))
    assert cache_arena.nbytes >= 2 * 2 * given.num_hidden_layers * given.num_key_value_heads * context * given.head_dim
    arrays = [value for value in (getattr(state, field.name) for field in fields(state)) if isinstance(value, np.ndarray)]
    assert state.final_LD is state.normed_LD
    activations = [state.normed_LD, state.mixed_LD, state.gated_LF]
    arrays += [part for a in activations for part in (a.codes, a.scales, a.offsets, a.scaled_sums)]
    arrays += [state.partials.blocks, state.partials.arrived]
    arrays += [table for tables in {id(t): t for t in state.rope.values()}.values() for table in (tables.cos_TE, tables.sin_TE)]
    assert all(array.ctypes.data % 64 == 0 for array in arrays)
    assert state_arena.nbytes == sum(aligned(array.nbytes) for array in arrays)
    assert all(activation.exact is None for activation in activations)


def test_room_for_table_lookup_is_made_where_matrices_read_it() -> None:
    given = checkpoint()
    made = ModelConfig.from_hf(given.config)
    cache, _ = new_cache(made, 64, np.float16)
    state, _ = new_state(made, cache, 1, 64)
    weights, _ = load_weights(given, made, lambda kind: "lookup" if kind.scheme.family == "int4" else "multiply-add")
    roomy, arena = with_lookup_room(state, weights, threads=3)
    rooms = [roomy.normed_LD.lookup, roomy.mixed_LD.lookup]
    assert roomy.gated_LF.lookup is None, "down_proj is int8"
    assert roomy.final_LD.lookup is None, "so is the head"
    assert roomy.final_LD.codes is roomy.normed_LD.codes
    assert all(room and {kind: table.shape for kind, table in room.tables.items()} == {"singles": (2, 1024)} for room in rooms)
    assert all(room and room.tiles.shape == (3, 4 * 16 * 64 // 2) for room in rooms)
    assert arena.nbytes == 2 * (2 * 1024 + 3 * 4 * 16 * 64 // 2)
    assert with_lookup_room(state, load_weights(given, made)[0], threads=3)[1].nbytes == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_layer_of_cache_is_its_own_memory(dtype: type) -> None:
    cache, arena = new_cache(config(num_hidden_layers=3), 128, dtype)
    assert [(layer.keys.shape, layer.values.shape) for layer in cache] == 3 * [((2, 2, 16, 64), (2, 128, 16))]
    assert arena.nbytes == 3 * 2 * 2 * 128 * 16 * np.dtype(dtype).itemsize
    cache[1].keys[...] = 1
    assert not any(array.any() for layer in (cache[0], cache[2]) for array in (layer.keys, layer.values))
