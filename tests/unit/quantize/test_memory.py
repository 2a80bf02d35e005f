"""What a conversion holds in memory: one and a half times its largest tensor, as the source stores it, and 300 MB for everything else."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from edgellm.formats.architecture import tensor_shapes
from tests.conftest import Report
from tests.unit.formats.synthetic import GGUF_KEYS, GGUF_SHAPES, TOKENIZER_JSON, add_key

HIDDEN, VOCAB = 1024, 96 * 1024
LARGEST = HIDDEN * VOCAB
"""Weights of the embedding: so many that the bound has no room for them as float32, whatever the source stores them as."""
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": 64 * 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""All matrices together are beyond the bound in BF16: it has no room for the pages of those that were read before."""
PROGRAM = """
import sys
from pathlib import Path
from edgellm.quantize.quantize import Recipe, quantize
quantize(Path(sys.argv[1]), Path(sys.argv[2]), Recipe.named("int8"), progress=False)
print(Path("/proc/self/status").read_text())
"""


def bf16_folder(folder: Path) -> float:
    """A model in a shard per tensor, files of zeros without their blocks on the disk. Gives the bytes of the largest tensor."""
    folder.mkdir()
    weight_map = {}
    for name, shape in tensor_shapes(CONFIG):
        header = json.dumps({name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * math.prod(shape)]}}).encode()
        weight_map[name] = f"{name}.safetensors"
        with (folder / weight_map[name]).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 2 * math.prod(shape))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(TOKENIZER_JSON)
    return 2 * LARGEST


def q4_k_file(path: Path) -> float:
    """A model whose matrices have to be dequantised, to seven times their bytes. Gives the bytes of the largest tensor."""
    keys = {"llama.vocab_size": VOCAB, "llama.embedding_length": HIDDEN, "llama.feed_forward_length": HIDDEN, "llama.block_count": 1}
    heads = {"llama.attention.head_count": 8, "llama.attention.head_count_kv": 8, "llama.rope.dimension_count": HIDDEN // 8}
    block_weights, block_bytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType.Q4_K]
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {**GGUF_KEYS, **keys, **heads}.items():
        add_key(writer, key, value)
    for name, shape in GGUF_SHAPES.items():
        if name.startswith("blk.1."):
            continue
        if len(shape) == 1:
            writer.add_tensor(name, np.zeros(HIDDEN, np.float32))
        else:
            rows = VOCAB if name == "token_embd.weight" else HIDDEN
            raw = np.zeros((rows, HIDDEN // block_weights * block_bytes), np.uint8)
            writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return LARGEST / block_weights * block_bytes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read from Linux's /proc/self/status")
@pytest.mark.parametrize("make", [bf16_folder, q4_k_file])
def test_a_conversion_holds_little_more_than_one_tensor(make: Callable[[Path], float], tmp_path: Path, report: Report) -> None:
    bound = 1.5 * make(tmp_path / "m") + 300e6
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "m"), str(tmp_path / "m.tmac2.bin")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0])
    source = make.__name__.replace("_", " ")
    report("memory", f"quantizing a {source}: peak {peak / 1e6:.0f} MB, allowed {bound / 1e6:.0f} MB", source=source, peak_bytes=peak)
    assert peak < bound
