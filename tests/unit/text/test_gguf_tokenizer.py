from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers

from edgellm.errors import EdgeLLMError, ModelFileError, UnsupportedModelError
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.formats.gguf_vocabulary import turn_ends

PREFIX = "tokenizer.ggml."


def encode(metadata: dict[str, Any], text: str) -> list[str]:
    tokens: list[str] = tokenizers.Tokenizer.from_str(tokenizer_json_from_gguf(metadata)).encode(text).tokens
    return tokens


@pytest.mark.parametrize(
    ("pre", "text", "tokens"),
    [
        ("smollm", "hi hi", ["hi", "Ġhi"]),
        ("smollm", "12", ["1", "2"]),
        ("gpt-2", "12", ["12"]),
        ("smollm", "  1", ["ĠĠ", "1"]),  # the digit is cut off first, so both spaces stay together
        ("gpt-2", "  1", ["Ġ", "Ġ", "1"]),
        ("smollm", "hi<|im_end|> <user>", ["hi", "<|im_end|>", "Ġ", "<user>"]),
        ("smollm", "é\n", ["Ã", "©", "Ċ"]),
        ("smollm", "", []),
    ],
)
def test_pre_tokenizer_merges_and_added_tokens(gguf_tokenizer_metadata: dict[str, Any], pre: str, text: str, tokens: list[str]) -> None:
    assert encode(gguf_tokenizer_metadata | {f"{PREFIX}pre": pre}, text) == tokens


def test_same_metadata_same_text_and_nothing_the_library_would_change(gguf_tokenizer_metadata: dict[str, Any]) -> None:
    text = tokenizer_json_from_gguf(gguf_tokenizer_metadata)
    assert text == tokenizer_json_from_gguf(dict(reversed(gguf_tokenizer_metadata.items())))
    assert json.loads(tokenizers.Tokenizer.from_str(text).to_str()) == json.loads(text)


def test_control_tokens_are_special_and_user_defined_ones_are_not(gguf_tokenizer_metadata: dict[str, Any]) -> None:
    added = json.loads(tokenizer_json_from_gguf(gguf_tokenizer_metadata))["added_tokens"]
    assert [(token["content"], token["special"]) for token in added] == [("<|im_start|>", True), ("<|im_end|>", True), ("<user>", False)]


def test_bos_and_eos_are_put_around_a_text_where_the_model_says_so(gguf_tokenizer_metadata: dict[str, Any]) -> None:
    both = {f"{PREFIX}add_bos_token": True, f"{PREFIX}add_eos_token": True}
    assert encode(gguf_tokenizer_metadata | both, "hi") == ["<|im_start|>", "hi", "<|im_end|>"]


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("model", "bert", UnsupportedModelError, "'bert'.*gpt2.*llama"),
        ("model", None, UnsupportedModelError, "None.*gpt2"),
        ("model", ["gpt2"], UnsupportedModelError, "gpt2"),
        ("pre", "tekken", UnsupportedModelError, "'tekken'.*gpt-2, smollm"),
        ("add_sep_token", True, UnsupportedModelError, "add_sep_token is True"),
        ("add_bos_token", "no", ModelFileError, "add_bos_token is 'no'"),
        ("pre", ["smollm"], UnsupportedModelError, "\\[.smollm.\\]"),
        ("precompiled_charsmap", b"", UnsupportedModelError, "precompiled_charsmap"),
        ("tokens", None, ModelFileError, "tokens is missing"),
        ("tokens", "abc", ModelFileError, "tokens is missing or not an array"),
        ("tokens", [1], ModelFileError, r"tokens\[0\] is 1, not str"),
        ("tokens", ["a"] * 264, ModelFileError, "263 of 264 tokens occur twice"),
        ("token_type", [1], ModelFileError, "token_type has 1 entries"),
        ("token_type", [6] * 264, UnsupportedModelError, r"token_type holds \[6\]"),
        ("merges", ["h"], ModelFileError, r"merges\[0\] is 'h'"),
        ("merges", ["h i", "h z"], ModelFileError, r"merges\[1\] is 'h z'"),
        ("merges", ["nope i"], ModelFileError, r"merges\[0\]"),
    ],
)
def test_refusals(gguf_tokenizer_metadata: dict[str, Any], key: str, value: object, error: type[EdgeLLMError], message: str) -> None:
    with pytest.raises(error, match=message):
        tokenizer_json_from_gguf(gguf_tokenizer_metadata | {PREFIX + key: value})


@pytest.mark.parametrize("value", [None, -1, 10**6, "x"])
def test_an_impossible_bos_is_refused_when_it_is_needed(gguf_tokenizer_metadata: dict[str, Any], value: object) -> None:
    with pytest.raises(ModelFileError, match="bos_token_id"):
        tokenizer_json_from_gguf(gguf_tokenizer_metadata | {f"{PREFIX}add_bos_token": True, f"{PREFIX}bos_token_id": value})


def test_tokens_that_end_a_turn_are_known_by_their_text() -> None:
    tokens = ["a", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|fim_pad|>"]
    metadata = {f"{PREFIX}tokens": tokens, f"{PREFIX}token_type": [1, 3, 3, 1, 3]}
    assert turn_ends(metadata) == [1, 2], "only control tokens"
    assert turn_ends({}) == turn_ends({f"{PREFIX}tokens": 1, f"{PREFIX}token_type": "x"}) == []
    assert turn_ends({f"{PREFIX}tokens": [["<|end|>"], "<|end|>"], f"{PREFIX}token_type": [3]}) == []
