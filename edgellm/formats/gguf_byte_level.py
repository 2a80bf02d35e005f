"""Byte-level BPE (GGUF's tokenizer model "gpt2"): the merges are in the file, and the pre-tokenizer is known by its name.

A pre-tokenizer cuts a text into words, which BPE never joins. Those here are what the models' own `tokenizer.json` hold; llama.cpp's
table of the same names (`src/llama-vocab.cpp`) says which names mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.gguf_vocabulary import PREFIX, Vocabulary, listed

Part = dict[str, Any]


def _split(pattern: str) -> list[Part]:
    """Words are the matches of a regular expression."""
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _bytes(use_regex=False)]


def _bytes(use_regex: bool = True) -> Part:
    """Bytes for characters; with the regular expression of GPT-2, also its words."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _words(digits: str) -> str:
    """The regular expression of GPT-4's kind, by how many digits go together."""
    return rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class PreTokenizer:
    """What a name stands for.

    steps:         of the pre-tokenizer, one after the other
    normalizer:    of the text before that
    ignore_merges: a word that is a token is that token, whatever the merges make of it
    add_bos:       whether a text begins with the beginning-of-sequence token where the file does not say so
    """

    steps: list[Part]
    normalizer: Part | None = None
    ignore_merges: bool = False
    add_bos: bool = False


GPT2 = PreTokenizer([_bytes()])
SMOLLM = PreTokenizer([{"type": "Digits", "individual_digits": True}, _bytes()])
LLAMA3 = PreTokenizer(_split(_words(r"\p{N}{1,3}")), ignore_merges=True, add_bos=True)
QWEN2 = PreTokenizer(_split(_words(r"\p{N}")), normalizer={"type": "NFC"})

PRE_TOKENIZERS = {
    "gpt-2": GPT2,
    "smollm": SMOLLM,
    "starcoder": SMOLLM,
    "refact": SMOLLM,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
}
"""By `tokenizer.ggml.pre`. BitNet b1.58 says "llama-bpe" and Qwen3 "qwen2"."""


def pre_tokenizer(keys: Mapping[str, Any]) -> PreTokenizer:
    """The one that `pre` names; UnsupportedModelError for any other."""
    name = keys.get("pre")
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise UnsupportedModelError(f"{PREFIX}pre is {name!r:.80}; implemented: {', '.join(PRE_TOKENIZERS)}")
    return PRE_TOKENIZERS[name]


def byte_level_parts(keys: Mapping[str, Any], vocabulary: Vocabulary) -> Part:
    """normalizer, pre_tokenizer, decoder and model of a `tokenizer.json`."""
    pre = pre_tokenizer(keys)
    return {
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.steps[0] if len(pre.steps) == 1 else {"type": "Sequence", "pretokenizers": pre.steps},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocabulary.ids,
            "merges": _merges(listed(keys, "merges", str), vocabulary.ids),
        },
    }


def _merges(merges: list[str], ids: Mapping[str, int]) -> list[list[str]]:
    """Each merge "left right" as a pair whose parts and whole are tokens."""
    pairs = [merge.split(" ") for merge in merges]
    for rank, pair in enumerate(pairs):
        if len(pair) != 2 or pair[0] not in ids or pair[1] not in ids or pair[0] + pair[1] not in ids:
            raise ModelFileError(f"{PREFIX}merges[{rank}] is {merges[rank]!r:.80}, not two tokens that make up a third one")
    return pairs
