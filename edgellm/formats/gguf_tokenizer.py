"""GGUF tokenizer metadata -> the text of a Hugging Face `tokenizer.json`. Byte-level BPE ("gpt2") only.

The keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "Tokenizer".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError

PREFIX = "tokenizer.ggml."

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
READ_KEYS = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "add_bos_token", "add_eos_token")
SILENT_KEYS = ("scores", "add_space_prefix")
"""Keys that say nothing about byte-level BPE: it has no scores, and its pre-tokenizer decides on the space prefix."""


def tokenizer_json_from_gguf(metadata: Mapping[str, Any]) -> str:
    """The `tokenizer.json` text that gives the token ids which the GGUF's tokenizer means. Same metadata, same text.

    metadata: GGUF key -> Python value; keys outside `tokenizer.ggml.` are not looked at.
    Raises UnsupportedModelError for a tokenizer that is not implemented, ModelFileError for one that contradicts itself.
    """
    keys = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    _refuse_unsupported(keys)
    tokens = _list(keys, "tokens", str)
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ModelFileError(f"{PREFIX}tokens: {len(tokens) - len(ids)} of {len(tokens)} tokens occur twice")
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokens, _list(keys, "token_type", int)),
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[keys["pre"]],
        "post_processor": _post_processor(keys, tokens),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": _merges(_list(keys, "merges", str), ids),
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _refuse_unsupported(keys: Mapping[str, Any]) -> None:
    if keys.get("model") != "gpt2":
        raise UnsupportedModelError(f'{PREFIX}model is {keys.get("model")!r}; implemented: "gpt2" (byte-level BPE)')
    if keys.get("pre") not in tuple(PRE_TOKENIZERS):  # a hostile file may give a list, which no dict can look up
        raise UnsupportedModelError(f"{PREFIX}pre is {keys.get('pre')!r}; implemented: {', '.join(PRE_TOKENIZERS)}")
    unknown = [key for key in keys if key not in READ_KEYS + SILENT_KEYS and not key.endswith("_token_id")]
    if unknown:
        raise UnsupportedModelError(f"unknown keys: {', '.join(PREFIX + key for key in unknown)}; known: {', '.join(READ_KEYS)}")


def _list(keys: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values = keys.get(key)
    if values is None or isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise ModelFileError(f"{PREFIX}{key} is missing or not an array")
    values = list(values)
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, kind)), None)
    if wrong is not None:
        raise ModelFileError(f"{PREFIX}{key}[{wrong}] is {values[wrong]!r}, not {kind.__name__}")
    return values


def _added_tokens(tokens: list[str], types: list[int]) -> list[dict[str, Any]]:
    """The tokens that are found in a text before BPE runs; control tokens are special, user-defined ones are plain text."""
    if len(types) != len(tokens):
        raise ModelFileError(f"{PREFIX}token_type has {len(types)} entries for {len(tokens)} tokens")
    strange = sorted(set(types) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED})
    if strange:
        raise UnsupportedModelError(f"{PREFIX}token_type holds {strange}; implemented for byte-level BPE: 1 to 5")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": token, **flags, "special": kind != USER_DEFINED}
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _merges(merges: list[str], ids: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Each merge "left right" as a pair whose parts and whole are tokens."""
    pairs: list[tuple[str, ...]] = [tuple(merge.split(" ")) for merge in merges]
    for rank, pair in enumerate(pairs):
        if len(pair) != 2 or pair[0] not in ids or pair[1] not in ids or pair[0] + pair[1] not in ids:
            raise ModelFileError(f"{PREFIX}merges[{rank}] is {merges[rank]!r}, not two tokens that make up a third one")
    return pairs


def _post_processor(keys: Mapping[str, Any], tokens: list[str]) -> dict[str, Any] | None:
    """Puts bos before and eos after every text, where the model says so."""
    before = [_token(keys, tokens, "bos_token_id")] if keys.get("add_bos_token") else []
    after = [_token(keys, tokens, "eos_token_id")] if keys.get("add_eos_token") else []
    if not before and not after:
        return None

    def special(pair: tuple[str, int], type_id: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": pair[0], "type_id": type_id}}

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": sequence, "type_id": type_id}}
        return [*(special(token, type_id) for token in before), text, *(special(token, type_id) for token in after)]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in before + after},
    }


def _token(keys: Mapping[str, Any], tokens: list[str], key: str) -> tuple[str, int]:
    """(text, id) of the token that a key names."""
    index = keys.get(key)
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise ModelFileError(f"{PREFIX}{key} is {index!r}, not the id of one of {len(tokens)} tokens")
    return tokens[index], index
