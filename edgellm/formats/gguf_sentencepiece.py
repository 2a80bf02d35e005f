"""SentencePiece's BPE with byte fallback (GGUF's tokenizer model "llama": Llama 2, Phi-3, Gemma): the merges follow from the scores.

SentencePiece joins the two neighbours whose whole has the highest score. `tokenizers` joins by a list of pairs, best first; this is the
list that transformers' converters make (`generate_merges` of https://github.com/huggingface/transformers): each way to cut a token into
two tokens, by score. A space is a "▁", and a character without a token is its UTF-8 bytes, "<0x00>" to "<0xFF>".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.gguf_vocabulary import BYTE, NORMAL, PREFIX, SPACE, USER_DEFINED, Vocabulary, listed

BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
MAX_TOKEN = 256
"""Characters of a token: finding all ways to cut one takes the square of its length. Gemma's longest has 31."""


def sentencepiece_parts(keys: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """normalizer, pre_tokenizer, decoder and model of a `tokenizer.json`."""
    bytes_ = {token for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True) if kind == BYTE}
    if bytes_ != BYTES:
        missing = sorted(BYTES - bytes_)
        wrong = f"{len(missing)} of 256 are missing, {missing[0]} first" if missing else f"{min(bytes_ - BYTES)!r:.80} is of their kind too"
        raise UnsupportedModelError(f"{PREFIX}tokens: the byte tokens must be <0x00> to <0xFF>, but {wrong}")
    longest = max(range(len(vocabulary.tokens)), key=lambda i: len(vocabulary.tokens[i]))
    if len(vocabulary.tokens[longest]) > MAX_TOKEN:
        raise UnsupportedModelError(
            f"{PREFIX}tokens[{longest}] has {len(vocabulary.tokens[longest])} characters; possible: up to {MAX_TOKEN}"
        )
    prefix = keys.get("add_space_prefix", True)
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": SPACE}] if prefix else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary.ids,
            "merges": _merges(vocabulary, _scores(keys, vocabulary)),
        },
    }


def _scores(keys: Mapping[str, Any], vocabulary: Vocabulary) -> list[float]:
    scores: list[float] = listed(keys, "scores", float)
    if len(scores) != len(vocabulary.tokens):
        raise ModelFileError(f"{PREFIX}scores has {len(scores)} entries for {len(vocabulary.tokens)} tokens")
    wrong = next((i for i, score in enumerate(scores) if not math.isfinite(score)), None)
    if wrong is not None:
        raise ModelFileError(f"{PREFIX}scores[{wrong}] is {scores[wrong]}, which ranks no token")
    return scores


def _merges(vocabulary: Vocabulary, scores: list[float]) -> list[tuple[str, str]]:
    """All pairs of tokens that make up a token, the highest score first, then the longest left part, then the longest right one.

    User-defined tokens come first, in the order of their ids: SentencePiece finds them before it joins anything, and llama.cpp's converter
    writes a score for them that means nothing. Control and byte tokens never come of text.
    """
    tokens, kinds = vocabulary.tokens, vocabulary.kinds
    parts = {token for token, kind in zip(tokens, kinds, strict=True) if kind in (NORMAL, USER_DEFINED)}

    def rank(i: int) -> tuple[int, float]:
        return (1, -i) if kinds[i] == USER_DEFINED else (0, scores[i])

    merges: list[tuple[str, str]] = []
    for _, ids in itertools.groupby(sorted((i for i, token in enumerate(tokens) if token in parts), key=rank, reverse=True), rank):
        alike = [tokens[i] for i in ids]
        pairs = [
            (token[:cut], token[cut:])
            for token in alike
            for cut in range(len(token) - 1, 0, -1)
            if token[:cut] in parts and token[cut:] in parts
        ]
        if len(alike) > 1:
            pairs.sort(key=lambda pair: (len(pair[0]), len(pair[1])), reverse=True)
        merges += pairs
    return merges
