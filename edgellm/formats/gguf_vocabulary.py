"""The tokens that a GGUF file lists, and what kind each of them is.

Keys and kinds are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "Tokenizer".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError

PREFIX = "tokenizer.ggml."
"""Of all keys that are read; the functions here are given keys without it."""

SPACE = "▁"
"""A space, as SentencePiece spells it."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


TURN_ENDS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")
"""Control tokens that end a turn in every model that has them: `generation_config.json` lists them, but not every GGUF does."""


@dataclass(frozen=True)
class Vocabulary:
    """Token i is tokens[i], of kind kinds[i].

    ids: token -> i, without the UNUSED ones, which only fill the embedding up to a round size
    """

    tokens: list[str]
    kinds: list[int]
    ids: dict[str, int]


def read_vocabulary(keys: Mapping[str, Any], sentencepiece: bool) -> Vocabulary:
    """The vocabulary that `tokens` and `token_type` list. In SentencePiece's there are BYTE tokens, and spaces are spelled SPACE.

    ModelFileError if the lists contradict each other or themselves, UnsupportedModelError for a kind that is not implemented.
    """
    tokens, kinds = listed(keys, "tokens", str), listed(keys, "token_type", int)
    if len(kinds) != len(tokens):
        raise ModelFileError(f"{PREFIX}token_type has {len(kinds)} entries for {len(tokens)} tokens")
    last = BYTE if sentencepiece else UNUSED
    strange = sorted(set(kinds) - set(range(NORMAL, last + 1)))
    if strange:
        raise UnsupportedModelError(f"{PREFIX}token_type holds {strange!r:.80}; implemented for this kind of tokenizer: 1 to {last}")
    if sentencepiece:
        _respell_spaces(tokens, kinds)
    repeated = len(tokens) - len(set(tokens))
    if repeated:
        raise ModelFileError(f"{PREFIX}tokens: {repeated} of {len(tokens)} tokens occur twice")
    return Vocabulary(tokens, kinds, {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED})


def _respell_spaces(tokens: list[str], kinds: list[int]) -> None:
    """Make user-defined tokens that are nothing but spaces SPACEs again: llama.cpp's converter undoes SentencePiece's spelling in them."""
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == USER_DEFINED and not token.strip(" "):
            tokens[i] = SPACE * len(token)


def listed(keys: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """An array of values of one kind; ModelFileError if it is anything else."""
    values = keys.get(key)
    if not isinstance(values, list | tuple):
        raise ModelFileError(f"{PREFIX}{key} is missing or not an array")
    wrong = next((i for i, value in enumerate(values) if type(value) is not kind), None)
    if wrong is not None:
        raise ModelFileError(f"{PREFIX}{key}[{wrong}] is {values[wrong]!r:.80}, not {kind.__name__}")
    return list(values)


def turn_ends(metadata: Mapping[str, Any]) -> list[int]:
    """The ids of the control tokens among TURN_ENDS, which end a generation whether or not a key names them; as in llama.cpp.

    metadata: GGUF key -> Python value; lists that are not what they should be are for `read_vocabulary` to refuse.
    """
    tokens, kinds = metadata.get(PREFIX + "tokens"), metadata.get(PREFIX + "token_type")
    if not isinstance(tokens, list) or not isinstance(kinds, list):
        return []
    return [i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=False)) if kind == CONTROL and token in TURN_ENDS]
