from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
import tokenizers

from edgellm.errors import EdgeLLMError, ModelFileError, UnsupportedModelError
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from tests.parity.vocabularies import SCORES, SYNTHETIC, metadata

PREFIX = "tokenizer.ggml."
LLAMA = SYNTHETIC["llama"]


def pieces(keys: dict[str, Any], text: str) -> list[str]:
    tokens: list[str] = tokenizers.Tokenizer.from_str(tokenizer_json_from_gguf(keys)).encode(text).tokens
    return tokens


@pytest.mark.parametrize(
    ("architecture", "text", "tokens"),
    [
        ("llama", "the and", ["<s>", "▁the", "▁an", "d"]),  # "and" is worth less than "▁an", though it is longer
        ("llama", " the", ["<s>", "▁", "▁the"]),  # the prefix comes also before a space
        ("llama", "ere", ["<s>", "▁", "er", "e"]),  # a tie goes to the token with the lower id
        ("llama", "a     a", ["<s>", "▁a", "▁▁▁▁", "▁a"]),
        ("llama", "ö", ["<s>", "▁", "<0xC3>", "<0xB6>"]),
        ("llama", "the<s>the", ["<s>", "▁the", "<s>", "▁the"]),  # and before each stretch of text
        ("llama", "", ["<s>"]),
        ("gemma3", "the the", ["<s>", "t", "he", "▁the"]),
        ("gemma3", "a   a\n\n\n<b>", ["<s>", "a", "▁▁▁", "a", "\n\n", "\n", "<b>"]),
    ],
)
def test_merges_follow_from_scores(architecture: str, text: str, tokens: list[str]) -> None:
    assert pieces(SYNTHETIC[architecture], text) == tokens


def test_merges_are_every_way_to_cut_a_token_the_best_first() -> None:
    merges = json.loads(tokenizer_json_from_gguf(LLAMA))["model"]["merges"]
    assert merges[:5] == [["▁", "t"], ["h", "e"], ["t", "h"], ["▁t", "he"], ["i", "n"]]
    assert merges[-5:] == [["▁▁", "▁▁"], ["▁▁", "▁"], ["▁", "▁▁▁"], ["▁", "▁▁"], ["▁", "▁"]]  # all of one score: the longest left part
    assert {left + right for left, right in merges} == {token for token in SCORES if len(token) > 1}


def test_spaces_that_users_defined_are_spelled_as_sentencepiece_does_and_come_first() -> None:
    document = json.loads(tokenizer_json_from_gguf(SYNTHETIC["gemma3"]))
    assert [(token["content"], token["special"]) for token in document["added_tokens"][3:]] == [
        ("▁▁", False),
        ("▁▁▁", False),
        ("\n", False),
        ("\n\n", False),
        ("<b>", False),
    ]
    assert document["model"]["merges"][:3] == [["▁", "▁"], ["▁▁", "▁"], ["▁", "▁▁"]]


def test_no_text_becomes_a_control_token_by_merging() -> None:
    keys = metadata()
    merges = json.loads(tokenizer_json_from_gguf(keys))["model"]["merges"]
    assert "</s" in SCORES
    assert ["</s", ">"] not in merges


@pytest.mark.parametrize(("add_bos", "add_eos", "tokens"), [(None, None, ["<s>", "▁a"]), (False, True, ["▁a", "</s>"])])
def test_a_text_begins_with_bos_unless_the_file_says_otherwise(add_bos: bool | None, add_eos: bool | None, tokens: list[str]) -> None:
    said = {f"{PREFIX}add_bos_token": add_bos, f"{PREFIX}add_eos_token": add_eos}
    assert pieces(LLAMA | {key: value for key, value in said.items() if value is not None}, "a") == tokens


def test_unused_tokens_are_left_out() -> None:
    keys = {**LLAMA, f"{PREFIX}token_type": [*LLAMA[f"{PREFIX}token_type"][:-1], 5]}
    assert "▁▁▁▁" not in json.loads(tokenizer_json_from_gguf(keys))["model"]["vocab"]


def test_same_metadata_same_text_and_nothing_the_library_would_change() -> None:
    text = tokenizer_json_from_gguf(LLAMA)
    assert text == tokenizer_json_from_gguf(dict(reversed(LLAMA.items())))
    assert json.loads(tokenizers.Tokenizer.from_str(text).to_str()) == json.loads(text)


def with_value(key: str, index: int, value: object) -> list[Any]:
    values: list[Any] = list(LLAMA[PREFIX + key])
    values[index] = value
    return values


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("scores", None, ModelFileError, "scores is missing"),
        ("scores", [0.0], ModelFileError, "scores has 1 entries"),
        ("scores", with_value("scores", 7, math.nan), ModelFileError, r"scores\[7\] is nan"),
        ("scores", with_value("scores", 7, math.inf), ModelFileError, r"scores\[7\] is inf"),
        ("scores", with_value("scores", 7, "1"), ModelFileError, r"scores\[7\] is '1', not float"),
        ("tokens", with_value("tokens", 3, "<0x0a>"), UnsupportedModelError, "1 of 256 are missing, <0x00> first"),
        ("token_type", with_value("token_type", -1, 6), UnsupportedModelError, "'▁▁▁▁' is of their kind too"),
        ("token_type", with_value("token_type", 4, 1), UnsupportedModelError, "1 of 256 are missing, <0x01> first"),
        ("tokens", with_value("tokens", -1, "<s>"), ModelFileError, "1 of 303 tokens occur twice"),
        ("tokens", with_value("tokens", -1, "a" * 257), UnsupportedModelError, "has 257 characters; possible: up to 256"),
        ("token_type", with_value("token_type", -1, 7), UnsupportedModelError, r"token_type holds \[7\]"),
        ("pre", "llama-bpe", UnsupportedModelError, "pre is 'llama-bpe'"),
        ("merges", ["a b"], UnsupportedModelError, "unknown keys: tokenizer.ggml.merges"),
        ("remove_extra_whitespaces", True, UnsupportedModelError, "remove_extra_whitespaces is True"),
        ("add_space_prefix", 1, ModelFileError, "add_space_prefix is 1"),
        ("bos_token_id", None, ModelFileError, "bos_token_id is None"),
    ],
)
def test_refusals(key: str, value: object, error: type[EdgeLLMError], message: str) -> None:
    with pytest.raises(error, match=message):
        tokenizer_json_from_gguf({**LLAMA, PREFIX + key: value})


@pytest.mark.parametrize("key", ["tokenizer.huggingface.json", "tokenizer.rwkv.world"])
def test_a_tokenizer_key_of_another_kind_is_refused(key: str) -> None:
    with pytest.raises(UnsupportedModelError, match=key):
        tokenizer_json_from_gguf({**LLAMA, key: "{}"})


def test_time_does_not_grow_with_the_square_of_the_vocabulary() -> None:
    words = [f"{i:06x}" for i in range(40_000)]
    tokens = [*LLAMA[f"{PREFIX}tokens"], *words]
    keys = {
        **LLAMA,
        f"{PREFIX}tokens": tokens,
        f"{PREFIX}scores": [0.0] * len(tokens),
        f"{PREFIX}token_type": [*LLAMA[f"{PREFIX}token_type"], *[1] * len(words)],
    }
    start = time.process_time()
    tokenizer_json_from_gguf(keys)
    assert time.process_time() - start < 5
