"""The rope of a config, from the keys of either generation of `config.json`.

Older ones have rope_theta, rope_scaling = {"rope_type" or "type": ..., ...} or null, and for Gemma's layers of sliding attention
rope_local_base_freq. Newer ones have rope_parameters = {"rope_type": ..., "rope_theta": ..., ...}, or one such object per kind of layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.model.keys import integer, number, numbers
from edgellm.model.rope import LinearScaling, Llama3Scaling, LongScaling, Rope, usual_attention_factor

ROPE_KEYS = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})
_PARAMETERS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "longrope": frozenset({"factor", "short_factor", "long_factor", "original_max_position_embeddings", "attention_factor"}),
}
"""rope_type -> what it may have beside rope_type, rope_theta and a partial_rotary_factor of 1."""
_FULL, _SLIDING = "full_attention", "sliding_attention"
_OLD_NAMES = {"su": "longrope"}


def rope_of(keys: Mapping[str, Any], head_dim: int) -> tuple[Rope, Rope | None]:
    """The rope of layers with full attention, and that of the others where it is another one: where there is a rope_local_base_freq.

    keys: the config's, with the family's defaults. ModelFileError names a key that is malformed, UnsupportedModelError one that is not
    implemented.
    """
    scaling, parameters = keys.get("rope_scaling"), keys.get("rope_parameters")
    if scaling is not None and parameters is not None:
        raise ModelFileError("config keys rope_scaling and rope_parameters are both there; only one of them can say what the rope is")
    key, given = ("rope_scaling", scaling) if scaling is not None else ("rope_parameters", parameters or {})
    given = _object(key, given)
    if "rope_local_base_freq" not in keys:
        return _rope(key, {"rope_theta": keys["rope_theta"], **given}, keys, head_dim), None
    if key == "rope_scaling":
        given = {_FULL: given}
    if unknown := sorted(given.keys() - {_FULL, _SLIDING}):
        raise UnsupportedModelError(f"config key {key}.{unknown[0]} is unknown; implemented: {_FULL} and {_SLIDING}")
    full, local = (_object(f"{key}.{kind}", given.get(kind) or {}) for kind in (_FULL, _SLIDING))
    return (
        _rope(key, {"rope_theta": keys["rope_theta"], **full}, keys, head_dim),
        _rope(key, {"rope_theta": keys["rope_local_base_freq"], **local}, keys, head_dim),
    )


def _object(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ModelFileError(f"config key {key} = {value!r:.80}; an object is needed")
    return value


def _rope(key: str, given: Mapping[str, Any], keys: Mapping[str, Any], head_dim: int) -> Rope:
    """From one object of parameters; `keys` are the whole config's."""
    named = given.get("rope_type", given.get("type", "default"))
    kind = _OLD_NAMES.get(named, named) if isinstance(named, str) else named
    if not isinstance(kind, str) or kind not in _PARAMETERS:
        raise UnsupportedModelError(f"config key {key}: rope_type {named!r:.40} is not implemented; implemented: {', '.join(_PARAMETERS)}")
    allowed = _PARAMETERS[kind] | {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if unknown := sorted(given.keys() - allowed):
        raise UnsupportedModelError(f"config key {key}.{unknown[0]} is unknown for rope_type {kind}; it may change what is computed")
    if given.get("partial_rotary_factor", 1) != 1:
        raise UnsupportedModelError(
            f"config key {key}.partial_rotary_factor = {given['partial_rotary_factor']!r:.40} is not implemented; implemented: 1"
        )
    theta = number(given, "rope_theta", smallest=1)
    if kind == "linear":
        return Rope(theta, LinearScaling(number(given, "factor", smallest=1)))
    if kind == "llama3":
        return Rope(theta, _llama3(given, _original(given, keys)))
    if kind == "longrope":
        return Rope(theta, _long(given, _original(given, keys), integer(keys, "max_position_embeddings"), head_dim))
    return Rope(theta)


def _llama3(given: Mapping[str, Any], original: int) -> Llama3Scaling:
    low, high = number(given, "low_freq_factor"), number(given, "high_freq_factor")
    if low >= high:
        raise ModelFileError(f"config keys low_freq_factor = {low:g} and high_freq_factor = {high:g}: the first must be the smaller")
    return Llama3Scaling(number(given, "factor", smallest=1), low, high, original)


def _long(given: Mapping[str, Any], original: int, longest: int, head_dim: int) -> LongScaling:
    factor = longest / original if given.get("factor") is None else number(given, "factor")
    usual = {"attention_factor": usual_attention_factor(factor, original)} if given.get("attention_factor") is None else given
    return LongScaling(
        short_factor=numbers(given, "short_factor", head_dim // 2, smallest=1),
        long_factor=numbers(given, "long_factor", head_dim // 2, smallest=1),
        original_max_position_embeddings=original,
        attention_factor=number(usual, "attention_factor"),
    )


def _original(given: Mapping[str, Any], keys: Mapping[str, Any]) -> int:
    """original_max_position_embeddings: the config's own, that of the scaling, or max_position_embeddings, as transformers has it."""
    key = "original_max_position_embeddings"
    said = next((where for where in (keys, given) if where.get(key) is not None), {key: keys.get("max_position_embeddings")})
    return integer(said, key)
