"""Seeded mutations of small model files: a reader gives the model or an EdgeLLMError, within memory that the file's size bounds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import EdgeLLMError
from edgellm.formats import open_checkpoint
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tmac2 import verify
from edgellm.quantize.quantize import Recipe, quantize
from tests.unit.formats.gguf_families import write_family
from tests.unit.formats.synthetic import seal, write_gguf

Mutation = Callable[[bytearray, np.random.Generator, int], None]
HOSTILE = [b"\xff" * 8, b"\xff" * 7 + b"\x7f", (1 << 32).to_bytes(8, "little"), (1 << 60).to_bytes(8, "little"), bytes(8)]
FAMILIES = {"llama": "TQ2_0", "phi3": "Q5_0", "gemma3": "F16", "bitnet": "TQ1_0"}
"""Architectures whose files have more to them than the first one's, and the type of their matrices."""

MUTATIONS_PER_KIND = {"gguf": 400, "tmac2": 400} | dict.fromkeys(FAMILIES, 50)
BYTES_PER_FILE_BYTE = 8
"""Of memory: Python's strings, numbers and dicts outgrow a file's bytes by such a factor, whatever the file claims."""


def truncate(raw: bytearray, rng: np.random.Generator, header: int) -> None:
    del raw[int(rng.integers(0, len(raw))) :]


def truncate_header(raw: bytearray, rng: np.random.Generator, header: int) -> None:
    del raw[int(rng.integers(0, header)) :]


def flip(raw: bytearray, rng: np.random.Generator, header: int) -> None:
    raw[int(rng.integers(0, header))] ^= 1 << int(rng.integers(0, 8))


def splice(raw: bytearray, rng: np.random.Generator, header: int) -> None:
    source, target, length = (int(n) for n in rng.integers(0, [header, header, 64]))
    raw[target : target + length] = raw[source : source + length]


def oversize(raw: bytearray, rng: np.random.Generator, header: int) -> None:
    position = int(rng.integers(0, header - 8))
    raw[position : position + 8] = HOSTILE[int(rng.integers(0, len(HOSTILE)))]


def digits(raw: bytearray, rng: np.random.Generator, header: int) -> None:
    """Digits in text become other digits: in JSON these are shapes and offsets, and the result still parses."""
    values = np.frombuffer(bytes(raw[:header]), np.uint8)
    for place in rng.choice(np.flatnonzero((values >= 0x30) & (values <= 0x39)), 3):
        raw[int(place)] = int(rng.integers(0x30, 0x3A))


def read_everything(path: Path) -> bool:
    """Whether the file opened, with tensors that its bytes can hold; anything but a model or an EdgeLLMError is raised."""
    try:
        tensors = open_checkpoint(path).tensors
    except EdgeLLMError:
        return False
    for tensor in tensors.values():
        stored = tensor.codes.size + tensor.scales.size if isinstance(tensor, QuantizedMatrix) else tensor.size
        assert stored <= path.stat().st_size
    return True


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("fuzz")
    gguf = write_gguf(folder / "m.gguf", matrix_type="Q4_0", types={"token_embd.weight": "Q8_0", "blk.0.ffn_up.weight": "Q5_1"})
    quantize(gguf, folder / "m.tmac2.bin", Recipe.named("tritplanes2"), progress=False)
    families = {name: write_family(folder / f"{name}.gguf", name, matrix_type=kind).read_bytes() for name, kind in FAMILIES.items()}
    return {"gguf": gguf.read_bytes(), "tmac2": (folder / "m.tmac2.bin").read_bytes()} | families


def header_bytes(raw: bytes, kind: str) -> int:
    """Where the tensor data starts, or a little before."""
    if kind == "tmac2":
        return 8 + int.from_bytes(raw[:8], "little")
    return max(raw.index(b"output_norm.weight"), raw.rindex(b"blk.1.")) + 64


@pytest.mark.parametrize("mutate", [truncate, truncate_header, flip, splice, oversize, digits])
@pytest.mark.parametrize("kind", ["gguf", "tmac2", *FAMILIES])
def test_a_mutated_file_is_read_or_refused(tmp_path: Path, models: dict[str, bytes], kind: str, mutate: Mutation) -> None:
    original = models[kind]
    path = tmp_path / "mutated"
    path.write_bytes(original)
    assert read_everything(path)
    rng = np.random.default_rng(7)
    opened = 0
    tracemalloc.start()
    try:
        for _ in range(MUTATIONS_PER_KIND[kind]):
            raw = bytearray(original)
            mutate(raw, rng, header_bytes(original, kind))
            path.write_bytes(seal(raw) if kind == "tmac2" else raw)
            del raw
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            opened += read_everything(path)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < BYTES_PER_FILE_BYTE * len(original)
    finally:
        tracemalloc.stop()
    assert opened < MUTATIONS_PER_KIND[kind]


def test_every_flip_in_the_tensor_data_is_caught_by_verify(tmp_path: Path, models: dict[str, bytes]) -> None:
    original = models["tmac2"]
    path = tmp_path / "flipped"
    rng = np.random.default_rng(7)
    for position in rng.integers(header_bytes(original, "tmac2"), len(original), 300):
        raw = bytearray(original)
        raw[int(position)] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(raw)
        assert len(verify(path)) == 1, f"byte {position}"
