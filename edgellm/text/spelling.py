"""How the text of a token spells the bytes that it stands for. There are two ways.

Byte-level BPE has a character for each byte, GPT-2's alphabet. SentencePiece's BPE spells its text as it is, but a space as "▁"; a byte of
a character that it lacks is a token `<0xE2>`, and the space that it puts before every text goes again when ids become text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from edgellm.errors import UnsupportedModelError

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling(NamedTuple):
    """bytes_of:    a token's text -> its bytes
    drops_a_space: whether the first space of a text is the tokenizer's own, which is not shown
    """

    bytes_of: Callable[[str], bytes]
    drops_a_space: bool = False


def spelling_of(decoder: Any) -> Spelling:
    """The spelling that a decoder of `tokenizers` undoes; UnsupportedModelError for another decoder than these two kinds have."""
    match json.loads(decoder.__getstate__()) if decoder is not None else None:
        case {"type": "ByteLevel"}:
            return Spelling(_byte_level)
        case {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        } if strip in ([], [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]):
            return Spelling(_byte_fallback, drops_a_space=bool(strip))
    raise UnsupportedModelError(
        f"the model's tokenizer decodes with {decoder!r:.200}; implemented: ByteLevel, and what SentencePiece's BPE needs: "
        "Replace ▁ with a space, ByteFallback, Fuse, and perhaps Strip of one space on the left"
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's character -> byte table: printable Latin-1 stands for itself, the other bytes for U+0100 onwards.

    Source: `bytes_to_unicode` of https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([BYTE_OF[character] for character in token])
    except KeyError:  # an added token that holds characters outside the alphabet stands for its own text
        return token.encode()


def _byte_fallback(token: str) -> bytes:
    byte = BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()
