"""Every family's tiny model in transformers' own implementation: its logits, made (`--write`) or compared with what is stored, and its
files as transformers writes them, read by ours."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.formats.hf import read_hf
from edgellm.model.config import ModelConfig
from tests import tiny
from tests.conftest import Report
from tests.parity.test_goldens import FLOAT32_NOISE

GOLDEN = Path(__file__).parents[1] / "golden"
LOGITS, FACTS = GOLDEN / "families.npz", GOLDEN / "families.json"

# The references' own deprecation warnings are not ours to fix.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


def causal_lm(name: str) -> Any:
    """transformers' model with the tiny model's config and weights, in float32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(1)
    given = tiny.checkpoint(name)
    config = transformers.AutoConfig.for_model(**given.config)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    loaded = model.load_state_dict({key: torch.tensor(value) for key, value in tiny.hf_weights(given).items()}, strict=False)
    assert not loaded.unexpected_keys
    assert set(loaded.missing_keys) == ({"lm_head.weight"} if given.config["tie_word_embeddings"] else set())
    model.tie_weights()
    return model.eval()


def logits(model: Any) -> tiny.F32:
    """float32 [positions, V], of the positions that are recorded."""
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        found: tiny.F32 = model(torch.tensor([tiny.tokens()])).logits[0, tiny.RECORDED].numpy()
    return found


def test_logits(write: bool, report: Report) -> None:
    found = {name: logits(causal_lm(name)) for name in tiny.CONFIGS} | {"bitnet_int8": logits(quantizing_bitnet())}
    digests = {name: tiny.digest(tiny.checkpoint(name)) for name in tiny.CONFIGS}
    if write:
        np.savez_compressed(LOGITS, allow_pickle=False, **found)
        facts = {"weights_sha256": digests, "versions": {name: version(name) for name in ("torch", "transformers", "numpy")}}
        FACTS.write_text(json.dumps(facts, indent=1) + "\n")
    assert json.loads(FACTS.read_text())["weights_sha256"] == digests
    recorded = np.load(LOGITS)
    assert set(recorded) == set(found)
    for name, now in found.items():
        distance = float(np.abs(recorded[name] - now).max())
        report(
            "parity", f"{name}, transformers now from transformers recorded: max |dlogit| {distance:.1e}", family=name, distance=distance
        )
        assert distance < FLOAT32_NOISE


def quantizing_bitnet() -> Any:
    """BitNet as transformers runs its packed files: ternary weights with a scale, activations in int8 with one scale a token."""
    torch, integration = pytest.importorskip("torch"), pytest.importorskip("transformers.integrations.bitnet")
    torch.compiler.set_stance("force_eager")  # the same operations, without a compiler
    model = causal_lm("bitnet")
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in [(name, child) for name, child in part.named_children() if isinstance(child, torch.nn.Linear)]:
                quantizing = integration.AutoBitLinear(linear.in_features, linear.out_features, bias=False, dtype=torch.float32)
                scale = linear.weight.abs().max()
                quantizing.weight.data, quantizing.weight_scale.data = linear.weight.data / scale, scale.reshape(1)
                setattr(part, name, quantizing)
    return model


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_what_transformers_writes_is_read(name: str, tmp_path: Path) -> None:
    """The config in the newest generation's keys, and the weights, fused, offset and sharded as it pleases."""
    causal_lm(name).save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert (tmp_path / "model.safetensors.index.json").exists()
    given, read = tiny.checkpoint(name), read_hf(tmp_path)
    assert ModelConfig.from_hf(read.config) == ModelConfig.from_hf(given.config)
    assert list(read.tensors) == list(given.tensors)
    for tensor in given.tensors:
        np.testing.assert_array_equal(tiny.dense(read.tensors[tensor]), tiny.dense(given.tensors[tensor]), err_msg=tensor)
