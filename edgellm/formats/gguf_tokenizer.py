"""GGUF tokenizer metadata -> the text of a Hugging Face `tokenizer.json`: what all tokenizers have in common.

`gguf_byte_level.py` and `gguf_sentencepiece.py` make the parts that depend on the tokenizer's kind. The keys are those of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, section "Tokenizer".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.gguf_byte_level import byte_level_parts, pre_tokenizer
from edgellm.formats.gguf_sentencepiece import sentencepiece_parts
from edgellm.formats.gguf_vocabulary import CONTROL, PREFIX, UNKNOWN, USER_DEFINED, Vocabulary, read_vocabulary

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
"""`tokenizer.ggml.model`."""

READ_KEYS = {
    BYTE_LEVEL: ("model", "tokens", "token_type", "add_bos_token", "add_eos_token", "pre", "merges"),
    SENTENCEPIECE: ("model", "tokens", "token_type", "add_bos_token", "add_eos_token", "scores", "add_space_prefix"),
}
FIXED_KEYS: dict[str, dict[str, Any]] = {
    BYTE_LEVEL: {"add_sep_token": False},
    SENTENCEPIECE: {"add_sep_token": False, "remove_extra_whitespaces": False, "pre": "default"},
}
"""Keys that would change the tokens if they had another value."""

SILENT_KEYS = {BYTE_LEVEL: ("scores", "add_space_prefix"), SENTENCEPIECE: ()}
"""Keys that say nothing about byte-level BPE: it has no scores, and its pre-tokenizer decides on the space prefix."""

CHAT_TEMPLATE = "tokenizer.chat_template"
"""The one key besides PREFIX's; also with the name of a template behind it, `.tool_use`."""


def tokenizer_json_from_gguf(metadata: Mapping[str, Any]) -> str:
    """The `tokenizer.json` text that gives the token ids which the GGUF's tokenizer means. Same metadata, same text.

    metadata: GGUF key -> Python value; only `general.architecture` and keys of `tokenizer.` are looked at.
    Raises UnsupportedModelError for a tokenizer that is not implemented, ModelFileError for one that contradicts itself.
    """
    keys = _known_keys(metadata)
    byte_level = keys["model"] == BYTE_LEVEL
    vocabulary = read_vocabulary(keys, sentencepiece=not byte_level)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocabulary, swallowing=metadata.get("general.architecture") == "phi3"),
        "post_processor": _post_processor(keys, vocabulary.tokens, add_bos=pre_tokenizer(keys).add_bos if byte_level else True),
        **(byte_level_parts(keys, vocabulary) if byte_level else sentencepiece_parts(keys, vocabulary)),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _known_keys(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of PREFIX, without it. UnsupportedModelError for any that is not understood, in whatever kind of tokenizer this is."""
    keys = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    model = keys.get("model")
    if model not in (BYTE_LEVEL, SENTENCEPIECE):
        raise UnsupportedModelError(
            f'{PREFIX}model is {model!r:.80}; implemented: "{BYTE_LEVEL}" (byte-level BPE) and "{SENTENCEPIECE}" (SentencePiece BPE)'
        )
    for key, implemented in FIXED_KEYS[model].items():
        if keys.get(key, implemented) != implemented:
            raise UnsupportedModelError(f"{PREFIX}{key} is {keys[key]!r:.80}; implemented: {implemented!r}")
    known = (*READ_KEYS[model], *FIXED_KEYS[model], *SILENT_KEYS[model])
    unknown = [PREFIX + key for key in keys if key not in known and not key.endswith("_token_id")]
    unknown += [key for key in metadata if key.startswith("tokenizer.") and not key.startswith((PREFIX, CHAT_TEMPLATE))]
    if unknown:
        raise UnsupportedModelError(f'unknown keys: {", ".join(unknown)}; known for "{model}": {", ".join(known)}')
    for key in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        if type(keys.get(key, True)) is not bool:
            raise ModelFileError(f"{PREFIX}{key} is {keys[key]!r:.80}, neither true nor false")
    return keys


def _added_tokens(vocabulary: Vocabulary, swallowing: bool) -> list[dict[str, Any]]:
    """The tokens that are found in a text before BPE runs; control tokens are special, user-defined ones are plain text.

    swallowing: they swallow the white space that follows, except those of INDIFFERENT; only Phi-3's `tokenizer.json` does this, and no
                key says so
    """
    return [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": swallowing and token not in INDIFFERENT,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


INDIFFERENT = ("<unk>", "<s>", "<|endoftext|>")


def _post_processor(keys: Mapping[str, Any], tokens: list[str], add_bos: bool) -> dict[str, Any] | None:
    """Puts bos before and eos after every text, where the model says so; add_bos: what it means if it does not say."""
    before = [_token(keys, tokens, "bos_token_id")] if keys.get("add_bos_token", add_bos) else []
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
        raise ModelFileError(f"{PREFIX}{key} is {index!r:.80}, not the id of one of {len(tokens)} tokens")
    return tokens[index], index
