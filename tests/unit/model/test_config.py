"""Which configurations are run, and what is said of those that are not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.model.config import ModelConfig
from edgellm.model.rope import Rope

GIVEN: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
ABSENT = "<absent>"


def config(**changes: Any) -> ModelConfig:
    return ModelConfig.from_hf({key: value for key, value in (GIVEN | changes).items() if value != ABSENT})


def test_every_dimension_is_taken_from_its_key() -> None:
    assert config() == ModelConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        vocab_size=49152,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope=Rope(100000.0),
        local_rope=None,
        layer_types=("full_attention",) * 30,
        sliding_window=None,
        hidden_act="silu",
        attention_scale=1 / 8,
        embedding_scale=1.0,
        attention_bias=False,
        qk_norm=False,
        post_norms=False,
        sub_norms=False,
    )


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"num_key_value_heads": ABSENT}, "num_key_value_heads", 9),
        ({"head_dim": None}, "head_dim", 64),
        ({"head_dim": 128}, "head_dim", 128),
        ({"rope_theta": ABSENT}, "rope", Rope(10000.0)),
        ({"rope_theta": 10000}, "rope", Rope(10000.0)),
        ({"rope_theta": ABSENT, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope", Rope(5e5)),
        ({"rope_parameters": None}, "rope", Rope(100000.0)),
        ({"tie_word_embeddings": ABSENT}, "tie_word_embeddings", False),
        ({"torch_dtype": "bfloat16", "eos_token_id": [1, 2], "use_cache": False}, "hidden_size", 576),
        ({"rope_scaling": None, "attention_bias": False, "hidden_act": "silu"}, "hidden_size", 576),
    ],
    ids=str,
)
def test_defaults_and_keys_without_effect(changes: dict[str, Any], key: str, value: Any) -> None:
    assert getattr(config(**changes), key) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, "config key model_type = 'qwen2' is not implemented; implemented: 'llama'"),
        ({"hidden_act": "gelu"}, "config key hidden_act = 'gelu' is not implemented; implemented: 'silu'"),
        ({"attention_bias": True}, "attention_bias = True is not implemented"),
        ({"mlp_bias": True}, "mlp_bias = True is not implemented"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling = {'type': 'linear', 'factor': 2} is not implemented"),
        ({"rope_interleaved": True}, "rope_interleaved = True is not implemented"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not implemented"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "config key rope_parameters = {'rope_type': 'yarn'} is not implemented"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2}}, "config key rope_parameters"),
        ({"rope_parameters": "default"}, "config key rope_parameters = 'default'"),
        ({"sliding_window": 4096}, "config key sliding_window = 4096 is unknown; it may change what the model computes"),
        ({"num_attention_heads": 10}, "num_attention_heads = 10 is no multiple of num_key_value_heads = 3"),
        ({"head_dim": 40}, "head_dim = 40 is not implemented; implemented: multiples of 16 up to 256"),
        ({"head_dim": 272}, "head_dim = 272 is not implemented"),
        ({"hidden_size": 560, "head_dim": 64}, "hidden_size = 560 is not implemented; implemented: multiples of 32"),
        ({"intermediate_size": 1552}, "intermediate_size = 1552 is not implemented; implemented: multiples of 32"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16}, "num_attention_heads * head_dim = 48 is no multiple of 32"),
        ({"max_position_embeddings": (1 << 20) + 1}, "max_position_embeddings = 1048577 is not implemented"),
    ],
    ids=str,
)
def test_what_is_not_implemented_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=re.escape(message)):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "config key hidden_size = 0; an integer between 1 and"),
        ({"num_attention_heads": 0}, "config key num_attention_heads = 0; an integer between 1 and"),
        ({"num_hidden_layers": -1}, "config key num_hidden_layers = -1"),
        ({"vocab_size": 1 << 40}, "config key vocab_size = 1099511627776"),
        ({"vocab_size": True}, "config key vocab_size = True"),
        ({"vocab_size": 49152.0}, "config key vocab_size = 49152.0"),
        ({"max_position_embeddings": "8192"}, "config key max_position_embeddings = '8192'"),
        ({"max_position_embeddings": ABSENT}, "config key max_position_embeddings = None"),
        ({"rms_norm_eps": 0}, "config key rms_norm_eps = 0; a number between 1e-30 and 1e12 is needed"),
        ({"rms_norm_eps": float("nan")}, "config key rms_norm_eps = nan"),
        ({"rms_norm_eps": ABSENT}, "config key rms_norm_eps = None"),
        ({"rope_theta": float("inf")}, "config key rope_theta = inf"),
        ({"rope_theta": -1.0}, "config key rope_theta = -1.0"),
        ({"rope_theta": 0.5}, "config key rope_theta = 0.5; a number between 1 and"),
        ({"rope_theta": True}, "config key rope_theta = True"),
        ({"tie_word_embeddings": 1}, "config key tie_word_embeddings = 1; true or false is needed"),
    ],
    ids=str,
)
def test_what_is_missing_or_malformed_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=re.escape(message)):
        config(**changes)
