"""Which configurations are run, and what is said of those that are not."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any

import pytest

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.model.config import ModelConfig
from edgellm.model.rope import Llama3Scaling, LongScaling, Rope
from tests import tiny

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
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PHI_ATTENTION_FACTOR = (17 / 12) ** 0.5  # sqrt(1 + log 32 / log 4096)
LONG = {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}


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
        ({"model_type": "gpt2"}, "config key model_type = 'gpt2' is not implemented; implemented: llama, qwen2, "),
        ({"model_type": ["llama"]}, "config key model_type = ['llama'] is not implemented"),
        ({"hidden_act": "gelu"}, "config key hidden_act = 'gelu' is not implemented; implemented: 'silu'"),
        ({"attention_bias": True}, "attention_bias = True is not implemented"),
        ({"mlp_bias": True}, "mlp_bias = True is not implemented"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2}},
            "config key rope_scaling: rope_type 'dynamic' is not implemented; implemented: ",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2, "mscale": 1}}, "config key rope_scaling.mscale is unknown for rope_type linear"),
        ({"rope_scaling": {"type": ["linear"]}}, "config key rope_scaling: rope_type ['linear'] is not implemented"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "config key rope_parameters.partial_rotary_factor = 0.5 is not implemented"),
        ({"partial_rotary_factor": 0.5}, "config key partial_rotary_factor = 0.5 is unknown"),
        ({"rope_interleaved": True}, "rope_interleaved = True is not implemented"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not implemented"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "config key rope_parameters: rope_type 'yarn' is not implemented"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2}}, "config key rope_parameters"),
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
        ({"rope_parameters": "default"}, "config key rope_parameters = 'default'; an object is needed"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {}}, "rope_scaling and rope_parameters are both there"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "config key factor = 0.5; a number between 1 and"),
        ({"rope_scaling": {"type": "linear"}}, "config key factor = None"),
        (
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
            "low_freq_factor = 4 and high_freq_factor = 4: the first must be the smaller",
        ),
        ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 0}}, "config key original_max_position_embeddings = 0"),
        ({"rope_scaling": LONG | {"long_factor": [1.0]}}, "config key long_factor = [1.0]; a list of 32 numbers between 1 and"),
        ({"rope_scaling": LONG | {"short_factor": [0.5] * 32}}, "config key short_factor = [0.5, 0.5"),
        ({"rope_scaling": LONG | {"short_factor": "x" * 32}}, "config key short_factor = 'xxx"),
        ({"rope_scaling": LONG | {"attention_factor": -1}}, "config key attention_factor = -1"),
        ({"tie_word_embeddings": 1}, "config key tie_word_embeddings = 1; true or false is needed"),
    ],
    ids=str,
)
def test_what_is_missing_or_malformed_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=re.escape(message)):
        config(**changes)


# The config.json files of models of each family, as their authors publish them, without names and versions.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
        "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": LLAMA3,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 128256,
    },
    "Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
        "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864, "max_position_embeddings": 32768,
        "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "use_cache": True,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    },
    "Phi-3-mini-4k": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "embd_pdrop": 0.0, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
        "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5, "rope_scaling": None,
        "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False, "vocab_size": 32064,
    },
    "Phi-3-mini-128k": {
        "attention_bias": False, "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144,
        "rope_scaling": {"type": "su", "short_factor": [1.05] * 48, "long_factor": [1.5] * 48}, "vocab_size": 32064,
    },
    "gemma-3-270m": {
        "_sliding_window_pattern": 6, "attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 640, "intermediate_size": 2048,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3, "max_position_embeddings": 32768, "model_type": "gemma3_text",
        "num_attention_heads": 4, "num_hidden_layers": 18, "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 512,
        "use_bidirectional_attention": False, "use_cache": True, "vocab_size": 262144,
    },
    "bitnet-b1.58-2B-4T": {
        "architectures": ["BitNetForCausalLM"], "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "relu2", "hidden_size": 2560,
        "intermediate_size": 6912, "max_position_embeddings": 4096, "model_type": "bitnet", "num_attention_heads": 20,
        "num_hidden_layers": 30, "num_key_value_heads": 5, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "vocab_size": 128256,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    },
}  # fmt: skip


def published(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig.from_hf({key: value for key, value in (PUBLISHED[name] | changes).items() if value != ABSENT})


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("Llama-3.2-1B", {"rope": Rope(5e5, Llama3Scaling(32.0, 1.0, 4.0, 8192)), "tie_word_embeddings": True, "attention_bias": False}),
        ("Qwen2.5-0.5B", {"attention_bias": True, "qk_norm": False, "layer_types": ("full_attention",) * 24, "sliding_window": None}),
        ("Qwen3-0.6B", {"attention_bias": False, "qk_norm": True, "head_dim": 128, "rope": Rope(1e6), "sliding_window": None}),
        ("Phi-3-mini-4k", {"head_dim": 96, "sliding_window": 2047, "layer_types": ("sliding_attention",) * 32, "rope": Rope(1e4)}),
        ("Phi-3-mini-128k", {"rope": Rope(1e4, LongScaling((1.05,) * 48, (1.5,) * 48, 4096, PHI_ATTENTION_FACTOR))}),
        ("gemma-3-270m", {"rope": Rope(1e6), "local_rope": Rope(1e4), "sliding_window": 512, "qk_norm": True, "post_norms": True}),
        ("gemma-3-270m", {"hidden_act": "gelu_pytorch_tanh", "attention_scale": 1 / 16, "embedding_scale": 640**0.5}),
        ("gemma-3-270m", {"tie_word_embeddings": True, "layer_types": (("sliding_attention",) * 5 + ("full_attention",)) * 3}),
        ("bitnet-b1.58-2B-4T", {"hidden_act": "relu2", "sub_norms": True, "head_dim": 128, "rope": Rope(5e5)}),
    ],
    ids=str,
)
def test_published_configs_give_their_features(name: str, features: dict[str, Any]) -> None:
    made = published(name)
    assert {key: getattr(made, key) for key in features} == features


NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    ("name", "older", "newer"),
    [
        ("Llama-3.2-1B", {}, {"rope_theta": ABSENT, "rope_scaling": ABSENT, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}}),
        (
            "Phi-3-mini-128k",
            {"rope_scaling": LONG | {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "attention_factor": 1.25}},
            {
                "rope_scaling": ABSENT,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 1.0,
                    "original_max_position_embeddings": 4096,
                    "short_factor": [1.0] * 48,
                    "long_factor": [2.0] * 48,
                    "attention_factor": 1.25,
                },
            },
        ),
        (
            "gemma-3-270m",
            {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            {"rope_theta": ABSENT, "rope_local_base_freq": ABSENT, "rope_scaling": ABSENT, "rope_parameters": NESTED},
        ),
        ("gemma-3-270m", {"layer_types": ABSENT}, {"_sliding_window_pattern": ABSENT}),
        (
            "gemma-3-270m",
            {"layer_types": ABSENT, "_sliding_window_pattern": ABSENT, "sliding_window_pattern": 6},
            {"tie_word_embeddings": ABSENT},
        ),
        ("Qwen2.5-0.5B", {"use_sliding_window": True}, {"layer_types": ["full_attention"] * 24}),
    ],
    ids=str,
)
def test_older_and_newer_keys_mean_the_same(name: str, older: dict[str, Any], newer: dict[str, Any]) -> None:
    assert published(name, **older) == published(name, **newer)


def test_qwens_last_layers_slide_where_the_config_says_so() -> None:
    made = published("Qwen2.5-0.5B", use_sliding_window=True, max_window_layers=20)
    assert made.layer_types == ("full_attention",) * 20 + ("sliding_attention",) * 4
    assert made.sliding_window == 32768


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("gemma-3-270m", {"final_logit_softcapping": 30.0}, UnsupportedModelError, "final_logit_softcapping = 30.0 is not implemented"),
        ("gemma-3-270m", {"model_type": "gemma3"}, UnsupportedModelError, "config key model_type = 'gemma3' is not implemented"),
        ("gemma-3-270m", {"use_bidirectional_attention": True}, UnsupportedModelError, "use_bidirectional_attention = True"),
        ("gemma-3-270m", {"layer_types": ["full_attention"]}, ModelFileError, "config key layer_types = ['full_attention']; a list of 18"),
        ("gemma-3-270m", {"layer_types": ["chunked"] * 18}, ModelFileError, "each full_attention or sliding_attention, is needed"),
        ("gemma-3-270m", {"sliding_window": None}, ModelFileError, "config key sliding_window = None; an integer"),
        ("gemma-3-270m", {"query_pre_attn_scalar": 0}, ModelFileError, "config key query_pre_attn_scalar = 0"),
        (
            "gemma-3-270m",
            {"rope_parameters": {"rope_theta": 1e6}},
            UnsupportedModelError,
            "config key rope_parameters.rope_theta is unknown",
        ),
        ("gemma-3-270m", {"rope_parameters": {"full_attention": 5}}, ModelFileError, "rope_parameters.full_attention = 5; an object"),
        ("Qwen2.5-0.5B", {"use_mrope": True}, UnsupportedModelError, "use_mrope = True is not implemented"),
        ("Qwen2.5-0.5B", {"use_sliding_window": 1}, ModelFileError, "config key use_sliding_window = 1; true or false"),
        ("Qwen3-0.6B", {"attention_bias": True}, UnsupportedModelError, "attention_bias = True is not implemented"),
        ("Phi-3-mini-4k", {"partial_rotary_factor": 0.75}, UnsupportedModelError, "partial_rotary_factor = 0.75 is not implemented"),
        ("Phi-3-mini-4k", {"sliding_window": -1}, ModelFileError, "config key sliding_window = -1"),
        ("Phi-3-mini-128k", {"rope_scaling": {"type": "su", "short_mscale": 1.1}}, UnsupportedModelError, "rope_scaling.short_mscale"),
        (
            "bitnet-b1.58-2B-4T",
            {"hidden_act": "silu"},
            UnsupportedModelError,
            "hidden_act = 'silu' is not implemented; implemented: 'relu2'",
        ),
        (
            "bitnet-b1.58-2B-4T",
            {"quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline"}},
            UnsupportedModelError,
            "config key quantization_config = {'quant_method': 'bitnet', 'linear_class': 'bitlinear'",
        ),
        ("Llama-3.2-1B", {"query_pre_attn_scalar": 64}, UnsupportedModelError, "config key query_pre_attn_scalar = 64 is unknown"),
        ("Llama-3.2-1B", {"rope_local_base_freq": 1e4}, UnsupportedModelError, "config key rope_local_base_freq = 10000.0 is unknown"),
    ],
    ids=str,
)
def test_what_a_family_does_not_have_or_has_in_another_way_is_refused(
    name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        published(name, **changes)


@pytest.mark.parametrize(
    ("name", "beyond"),
    [
        ("llama", None),
        ("llama3", "a scaled rope"),
        ("qwen2", "a sliding window"),
        ("qwen3", "norms of queries and keys"),
        ("phi3_long", "a scaled rope"),
        ("gemma3", "a scaled rope"),
        ("bitnet", "the activation relu2"),
    ],
)
def test_who_runs_llama_alone_is_told_what_else_there_is(name: str, beyond: str | None) -> None:
    made = ModelConfig.from_hf(tiny.CONFIGS[name])
    with (
        pytest.raises(UnsupportedModelError, match=f"LiteRT runs models like Llama 2 only; this one has {beyond}")
        if beyond
        else nullcontext()
    ):
        made.require_llama("LiteRT")
