from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.formats import open_checkpoint
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tensors import LazyTensors, TensorSpec, row_blocks
from edgellm.formats.tmac2 import write_tmac2
from tests import tiny
from tests.unit.formats.gguf_families import write_family
from tests.unit.formats.synthetic import edit_safetensors_header, hf_weights, same_bits, write_gguf, write_hf


def bf16(folder: Path) -> Path:
    """The upper halves of random weights."""
    write_hf(folder, {name: (value.view(np.uint32) >> 16).astype(np.uint16) for name, value in hf_weights().items()})
    edit_safetensors_header(folder / "model.safetensors", lambda header: [entry.update(dtype="BF16") for entry in header.values()])
    return folder


def packed_bitnet(folder: Path) -> Path:
    """Rows that lie in the bits of others."""
    given = tiny.checkpoint("bitnet")
    offline = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    return write_hf(folder, tiny.packed_bitnet(given), given.config | {"quantization_config": offline})


def family(folder: Path, name: str) -> Path:
    """The matrices of Phi-3 are fused, the norms of Gemma 3 less 1."""
    given = tiny.checkpoint(name)
    return write_hf(folder, tiny.hf_weights(given), given.config)


def tmac2(path: Path) -> Path:
    """Views of a mapped file."""
    write_tmac2(path, tiny.checkpoint("bitnet"))
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "tmac2": tmac2,
    "BF16": bf16,
    "packed bitnet": packed_bitnet,
    "phi3": partial(family, name="phi3_short"),
    "gemma3": partial(family, name="gemma3"),
    "gguf phi3": partial(write_family, architecture="phi3"),
    **{f"gguf llama {kind}": partial(write_gguf, matrix_type=kind) for kind in ("Q4_1", "Q5_1", "BF16", "F16")},
}


@pytest.mark.parametrize("source", SOURCES)
def test_some_rows_are_those_of_the_whole_tensor(source: str, tmp_path: Path) -> None:
    tensors = LazyTensors.over(open_checkpoint(SOURCES[source](tmp_path / "m")).tensors)
    for name, tensor in tensors.items():
        whole = floats(tensor)
        for rows in (slice(0, 1), slice(1, 6), slice(len(whole) - 5, len(whole))):
            assert same_bits(floats(tensors.rows(name, rows)), whole[rows]), name


def floats(tensor: Any) -> Any:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor


def test_blocks_are_all_rows_in_turn() -> None:
    for shape in ((5, 1 << 20), (2050, 1 << 10), (3 << 20,), (7,)):
        blocks = list(row_blocks(shape))
        assert [row for block in blocks for row in (block.start, block.stop)][1:-1:2] == [block.start for block in blocks[1:]]
        assert (blocks[0].start, blocks[-1].stop) == (0, shape[0])
        assert max(block.stop - block.start for block in blocks) * np.prod(shape[1:], initial=1) <= 1 << 20
        assert list(TensorSpec(shape, "float32", "F32").blocks()) == blocks


def test_rows_that_share_a_scale_are_one_block() -> None:
    assert list(TensorSpec((1 << 12, 1 << 12), "ternary-tensor", "U8").blocks()) == [slice(0, 1 << 12)]
