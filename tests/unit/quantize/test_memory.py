"""What a conversion holds in memory: one and a half times its largest tensor, and 300 MB for everything else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgellm.formats.architecture import tensor_shapes
from tests.conftest import Report

CONFIG = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 30720,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""Three matrices of 63 MB in BF16: with the pages of the others still mapped, any of them would be beyond the bound."""
BOUND = 1.5 * 1024 * 30720 * 2 + 300e6
PROGRAM = """
import sys
from pathlib import Path
from edgellm.quantize.quantize import Recipe, quantize
quantize(Path(sys.argv[1]), Path(sys.argv[2]), Recipe.named(sys.argv[3]), progress=False)
print(Path("/proc/self/status").read_text())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    """A model in a shard per tensor, its weights the same thousand numbers again and again."""
    made = tmp_path_factory.mktemp("source")
    bits = (np.random.default_rng(0).normal(0, 0.02, 1024).astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    weight_map = {}
    for name, shape in tensor_shapes(CONFIG):
        rows = np.prod(shape) // 1024
        header = json.dumps({name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, int(rows) * 2048]}}).encode()
        weight_map[name] = f"{name}.safetensors"
        (made / weight_map[name]).write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes() * int(rows))
    (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "tokenizer.json").write_text(tokenizer_json)
    return made


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read from Linux's /proc/self/status")
@pytest.mark.parametrize("scheme", ["int8", "int4-min"])
def test_a_conversion_holds_one_tensor(scheme: str, folder: Path, tmp_path: Path, report: Report) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path / "m.tmac2.bin"), scheme], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0])
    report("memory", f"quantizing to {scheme}: peak {peak / 1e6:.0f} MB, allowed {BOUND / 1e6:.0f} MB", scheme=scheme, peak_bytes=peak)
    assert peak < BOUND
