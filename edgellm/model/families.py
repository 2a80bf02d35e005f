"""What the keys of `config.json` mean in each family, as data: which are read, which are implemented for some values only, and which have
no effect on what a forward pass at inference computes. A key that is none of these is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgellm.model.keys import boolean, integer
from edgellm.model.rope_keys import ROPE_KEYS

DIMENSIONS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
              "vocab_size", "max_position_embeddings")  # fmt: skip
READ = ROPE_KEYS | {*DIMENSIONS, "model_type", "rms_norm_eps", "tie_word_embeddings"}
"""Keys that every family has, read by `ModelConfig.from_hf`."""
WITHOUT_EFFECT = frozenset(
    {
        *("_name_or_path", "name_or_path", "architectures", "auto_map", "transformers_version", "_attn_implementation_autoset"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "use_cache", "cache_implementation"),
        *("attention_dropout", "initializer_range"),
    }
)
"""Keys without effect in every family."""


@dataclass(frozen=True)
class Meaning:
    """What the keys mean in one family.

    fixed:          keys that are implemented for some values only; the first is the usual one
    read:           keys that `from_hf` reads in this family only
    without_effect: keys that have none, beside those of all families
    defaults:       of keys that a config may leave out, as transformers' configuration class has them
    layer_types:    (keys, layers) -> what the layers attend to, where the config does not list it
    scaled_embedding: embeddings are multiplied with sqrt(hidden_size)
    """

    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    read: frozenset[str] = frozenset()
    without_effect: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    layer_types: Callable[[Mapping[str, Any], int], list[str]] = lambda _, layers: ["full_attention"] * layers
    scaled_embedding: bool = False


def _all_sliding_if_any(keys: Mapping[str, Any], layers: int) -> list[str]:
    return ["full_attention" if keys.get("sliding_window") is None else "sliding_attention"] * layers


def _sliding_from_max_window_layers(keys: Mapping[str, Any], layers: int) -> list[str]:
    if not boolean(keys, "use_sliding_window"):
        return ["full_attention"] * layers
    first = keys["max_window_layers"] if keys["max_window_layers"] == 0 else integer(keys, "max_window_layers")
    return ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]


def _full_every_few(keys: Mapping[str, Any], layers: int) -> list[str]:
    name = "_sliding_window_pattern" if "_sliding_window_pattern" in keys else "sliding_window_pattern"
    period = integer(keys, name)
    return ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(layers)]


_QWEN = Meaning(
    fixed={"hidden_act": ("silu",), "use_mrope": (False,), "quantization_config": (None,)},
    read=frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}),
    defaults={"rope_theta": 10000.0, "sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28},
    layer_types=_sliding_from_max_window_layers,
)
_PACKED_TERNARY = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
_BITNET_DEFAULTS = {"modules_to_not_convert": None, "use_rms_norm": False, "rms_norm_eps": 1e-6}  # as transformers writes them out
MEANINGS: Mapping[str, Meaning] = {
    "llama": Meaning(
        fixed={
            "hidden_act": ("silu",),
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "rope_interleaved": (False,),
            "quantization_config": (None,),
        },
        without_effect=frozenset({"pretraining_tp", "is_llama_config", "transformers.js_config"}),
        defaults={"rope_theta": 10000.0},
    ),
    "qwen2": _QWEN,
    "qwen3": replace(_QWEN, fixed={**_QWEN.fixed, "attention_bias": (False,)}),
    "phi3": Meaning(
        fixed={
            "hidden_act": ("silu",),
            "attention_bias": (False,),
            "mlp_bias": (False,),
            "lm_head_bias": (False,),
            "partial_rotary_factor": (1.0,),
            "full_attn_mod": (1,),
            "interpolate_factor": (1,),
            "quantization_config": (None,),
        },
        read=frozenset({"sliding_window", "original_max_position_embeddings"}),
        without_effect=frozenset({"embd_pdrop", "resid_pdrop"}),
        defaults={"rope_theta": 10000.0},
        layer_types=_all_sliding_if_any,
    ),
    "gemma3_text": Meaning(
        fixed={
            "hidden_activation": ("gelu_pytorch_tanh",),
            "hidden_act": ("gelu_pytorch_tanh",),
            "attention_bias": (False,),
            "attn_logit_softcapping": (None,),
            "final_logit_softcapping": (None,),
            "use_bidirectional_attention": (False, None),
            "quantization_config": (None,),
        },
        read=frozenset(
            {
                *("sliding_window", "layer_types", "sliding_window_pattern", "_sliding_window_pattern"),
                *("query_pre_attn_scalar", "rope_local_base_freq"),
            }
        ),
        defaults={
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "query_pre_attn_scalar": 256,
        },
        scaled_embedding=True,
        layer_types=_full_every_few,
    ),
    "bitnet": Meaning(
        fixed={
            "hidden_act": ("relu2",),
            "attention_bias": (False,),
            "quantization_config": (_PACKED_TERNARY, _PACKED_TERNARY | _BITNET_DEFAULTS, None),
        },
        defaults={"rope_theta": 500000.0},
    ),
}
"""By `model_type`."""
