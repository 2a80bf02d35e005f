"""Memory for weights and buffers: one anonymous mapping each, on huge pages where the system offers them."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import InvalidRequestError
from edgellm.formats.matrix import BLOCK
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import DecoderState, DecoderWeights, RopeTables, activation_readers
from edgellm.model.rope import Rope, cos_sin
from edgellm.ops import native
from edgellm.ops.interface import KEY_TILE, LOOKUP_TILES, TABLE_BYTES, Activation, CacheLayer, LookupRoom, PackedMatrix, Partials

_ALIGNMENT = 64  # bytes: a cache line, and an AVX-512 register


class Arena:
    """Hands out aligned, zeroed arrays from one mapping. Pages cost memory only once they are touched."""

    def __init__(self, nbytes: int, huge_pages: bool = False) -> None:
        try:
            self._map = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise InvalidRequestError(
                f"{nbytes / 2**20:.0f} MiB of memory can't be had: {error}; load a smaller model or ask for a smaller context"
            ) from error
        if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel built without huge pages refuses; ordinary ones serve
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._used = 0

    @property
    def nbytes(self) -> int:
        """Bytes handed out, alignment included."""
        return self._used

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A zeroed array whose first byte is 64-byte aligned."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        start, self._used = self._used, self._used + aligned(size)
        return self._bytes[start : start + size].view(dtype).reshape(shape)

    def touch(self) -> None:
        """Have every page now, rather than when something is first written to it."""
        pages = self._bytes[:: mmap.PAGESIZE]
        pages |= 0

    def lock(self) -> None:
        """Keep every page in memory as long as the arena lives; OSError if the system refuses."""
        native.lock(self._bytes)


def aligned(nbytes: int) -> int:
    """nbytes rounded up to the alignment."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def new_activation(arena: Arena, length: int, cols: int, per_token: bool = False, exact: bool = False) -> Activation:
    """Buffers for vectors [length, cols], quantized in groups of 32 or each as a whole; `exact` also keeps them unquantized."""
    blocks = cols // BLOCK
    return Activation(
        codes=arena.empty((length, cols), np.int8),
        scales=arena.empty((length, 1 if per_token else blocks), np.float32),
        offsets=arena.empty((length, blocks), np.int32),
        scaled_sums=arena.empty((length, blocks), np.float32),
        exact=np.zeros((length, cols), np.float32) if exact else None,
    )


def _state_bytes(config: ModelConfig, length: int, context: int) -> int:
    """An upper bound on what `new_state` hands out, the cache aside."""
    wide = config.num_attention_heads * config.head_dim
    narrow = config.num_key_value_heads * config.head_dim
    floats = 2 * config.hidden_size + 2 * wide + 2 * narrow + 2 * config.intermediate_size + config.vocab_size + 1
    activations = 2 * (config.hidden_size + wide + config.intermediate_size)  # codes, and 12 bytes a group of 32
    tables = context * config.head_dim * (1 if config.local_rope is None else 2)
    partials = sum(math.prod(shape) for shape in _partials(config, context))
    return length * (4 * floats + activations) + 4 * (tables + partials) + 40 * _ALIGNMENT


def _partials(config: ModelConfig, context: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return Partials.shapes(config.num_attention_heads, config.num_key_value_heads, config.head_dim, context)


def new_cache(config: ModelConfig, context: int, dtype: npt.DTypeLike, huge_pages: bool = False) -> tuple[tuple[CacheLayer, ...], Arena]:
    """The key/value cache of every layer for `context` positions (a multiple of KEY_TILE), and the arena that it lies in.

    huge_pages make attention to many keys quicker, but the first positions then take the memory of all: each head has a stretch of its own.
    """
    heads, dim, layers = config.num_key_value_heads, config.head_dim, config.num_hidden_layers
    arena = Arena(2 * layers * aligned(heads * context * dim * np.dtype(dtype).itemsize), huge_pages)
    cache = tuple(
        CacheLayer(arena.empty((heads, context // KEY_TILE, dim, KEY_TILE), dtype), arena.empty((heads, context, dim), dtype))
        for _ in range(layers)
    )
    return cache, arena


def new_state(
    config: ModelConfig, cache: tuple[CacheLayer, ...], length: int, context: int, per_token: bool = False, exact: bool = False
) -> tuple[DecoderState, Arena]:
    """Buffers for steps of up to `length` tokens, and the arena that they lie in. The cache has room for `context` positions or more.

    per_token: activations have one scale a token, rather than one per 32 columns. exact: they are also kept unquantized.
    """
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    room = -(-context // KEY_TILE) * KEY_TILE
    arena = Arena(_state_bytes(config, length, room))

    def floats(*shape: int) -> npt.NDArray[np.float32]:
        return arena.empty(shape, np.float32)

    def activation(cols: int) -> Activation:
        return new_activation(arena, length, cols, per_token, exact)

    def tables(rope: Rope) -> RopeTables:
        made = RopeTables(floats(room, dim // 2), floats(room, dim // 2))
        made.cos_TE[:], made.sin_TE[:] = cos_sin(rope, dim, context, room)
        return made

    rope = tables(config.rope)
    local = rope if config.local_rope is None else tables(config.local_rope)
    blocks, arrived = _partials(config, room)
    normed = activation(config.hidden_size)
    state = DecoderState(
        tokens_L=arena.empty((length,), np.int32),
        hidden_LD=floats(length, config.hidden_size),
        normed_LD=normed,
        q_LHE=floats(length, heads, dim),
        k_LGE=floats(length, kv_heads, dim),
        v_LGE=floats(length, kv_heads, dim),
        mixed_LHE=floats(length, heads, dim),
        mixed_LD=activation(heads * dim),
        gate_LF=floats(length, config.intermediate_size),
        up_LF=floats(length, config.intermediate_size),
        gated_LF=activation(config.intermediate_size),
        update_LD=floats(length if config.post_norms else 0, config.hidden_size),
        final_LD=normed,
        logits_LV=floats(length, config.vocab_size),
        partials=Partials(floats(*blocks), arena.empty(arrived, np.int32)),
        rope={"full_attention": rope, "sliding_attention": local},
        cache=cache,
    )
    return state, arena


def new_first() -> npt.NDArray[np.int64]:
    """Where the checks of a step note the first value that is not finite (see `ops.checked`)."""
    return Arena(_ALIGNMENT).empty((1,), np.int64)


def with_lookup_room(state: DecoderState, weights: DecoderWeights[PackedMatrix], threads: int) -> tuple[DecoderState, Arena]:
    """The state with what table lookup needs beside activations that matrices in the lookup layout read, and the arena that it lies in."""
    readers = activation_readers(weights)
    arena = Arena(sum(lookup_room_bytes(getattr(state, name).cols, matrices, threads) for name, matrices in readers.items()))

    def roomy(name: str) -> Activation:
        activation: Activation = getattr(state, name)
        return replace(activation, lookup=new_lookup_room(arena, activation.cols, readers[name], threads))

    normed, mixed, gated, final = map(roomy, ("normed_LD", "mixed_LD", "gated_LF", "final_LD"))
    return replace(state, normed_LD=normed, mixed_LD=mixed, gated_LF=gated, final_LD=final), arena


def new_lookup_room(arena: Arena, cols: int, readers: Sequence[PackedMatrix], threads: int) -> LookupRoom | None:
    """For an activation of so many columns; None where no reader has the lookup layout."""
    kinds = sorted({kind for matrix in readers for kind in matrix.tables})
    if not kinds:
        return None
    tables = {kind: arena.empty((cols // BLOCK, TABLE_BYTES[kind]), np.uint8) for kind in kinds}
    return LookupRoom(tables, arena.empty((threads, _tiles_bytes(readers)), np.uint8))


def lookup_room_bytes(cols: int, readers: Sequence[PackedMatrix], threads: int) -> int:
    """What `new_lookup_room` hands out."""
    kinds = {kind for matrix in readers for kind in matrix.tables}
    return sum(TABLE_BYTES[kind] * cols // BLOCK for kind in kinds) + threads * _tiles_bytes(readers)


def _tiles_bytes(readers: Sequence[PackedMatrix]) -> int:
    """Of a thread: room for LOOKUP_TILES tiles of any reader that is laid out for lookup."""
    return aligned(LOOKUP_TILES * max((matrix.tile_bytes for matrix in readers if matrix.layout == "lookup"), default=0))
