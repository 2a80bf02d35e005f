"""What the name of each pre-tokenizer stands for, on a vocabulary of bytes and a few words."""

from __future__ import annotations

import pytest
import tokenizers

from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.text.spelling import BYTE_OF

MERGES = ["1 2", "12 3", "Ġ 1", "Ã ©", "' S"]
TOKENS = [*BYTE_OF, *(merge.replace(" ", "") for merge in MERGES), "word", "<bos>"]  # no merges make "word"


@pytest.mark.parametrize(
    ("pre", "text", "tokens"),
    [
        ("gpt-2", "1234", ["123", "4"]),
        ("gpt-2", " 1", ["Ġ1"]),
        ("gpt-2", "'S", ["'", "S"]),
        ("gpt-2", "word", ["w", "o", "r", "d"]),
        ("smollm", "1234", ["1", "2", "3", "4"]),
        ("starcoder", "12", ["1", "2"]),
        ("refact", "12", ["1", "2"]),
        ("llama-bpe", "1234", ["<bos>", "123", "4"]),
        ("llama-bpe", " 1", ["<bos>", "Ġ", "1"]),
        ("llama-bpe", "'S", ["<bos>", "'S"]),
        ("llama-bpe", "word", ["<bos>", "word"]),  # a token whatever the merges make of it
        ("llama-bpe", "e\u0301", ["<bos>", "e", "Ì", "ģ"]),
        ("llama3", "word", ["<bos>", "word"]),
        ("llama-v3", "word", ["<bos>", "word"]),
        ("qwen2", "1234", ["1", "2", "3", "4"]),
        ("qwen2", "'S", ["'S"]),
        ("qwen2", "word", ["w", "o", "r", "d"]),
        ("qwen2", "e\u0301", ["Ã©"]),  # composed before anything else
    ],
)
def test_words_of_a_pre_tokenizer(pre: str, text: str, tokens: list[str]) -> None:
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": TOKENS,
        "token_type": [1] * (len(TOKENS) - 1) + [3],
        "merges": MERGES,
        "bos_token_id": len(TOKENS) - 1,
    }
    text_of_json = tokenizer_json_from_gguf({f"tokenizer.ggml.{key}": value for key, value in keys.items()})
    assert tokenizers.Tokenizer.from_str(text_of_json).encode(text).tokens == tokens
