"""SentencePiece vocabularies small enough to read, with what is hard in real ones: scores that tie, spaces in runs, user-defined tokens."""

from __future__ import annotations

from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

CONTROLS = ("<unk>", "<s>", "</s>")
WORDS = "▁t he th ▁the in er re ing ▁a ▁an an and ▁é 日本 12 <b /s </s :: ::::".split()
TIED = {"re": "er", "▁▁▁": "▁▁", "▁▁▁▁": "▁▁"}
SCORES = {word: -1.0 - i for i, word in enumerate(WORDS)} | {"▁▁": -1e9} | {c: -100.0 - i for i, c in enumerate("▁theinrgadsbé日本12<>/:")}
SCORES |= {word: SCORES[other] for word, other in TIED.items()}
"""Normal tokens. "ere" can be cut in two ways that tie."""


def metadata(user_defined: tuple[str, ...] = (), **settings: Any) -> dict[str, Any]:
    """`tokenizer.ggml.` keys as llama.cpp's converter writes them: user-defined tokens hold spaces and a score without meaning."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    normal = {token: score for token, score in SCORES.items() if token.replace("▁", " ") not in user_defined}
    tokens = [*CONTROLS, *user_defined, *byte_tokens, *normal]
    scores = [-1000.0] * (len(CONTROLS) + len(user_defined)) + [0.0] * 256 + list(normal.values())
    kinds = [UNKNOWN, CONTROL, CONTROL, *[USER_DEFINED] * len(user_defined), *[BYTE] * 256, *[NORMAL] * len(normal)]
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": scores,
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **settings,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


SYNTHETIC = {
    "llama": metadata(),
    "gemma3": metadata(("  ", "   ", "\n", "\n\n", "<b>"), add_space_prefix=False),
}
"""By the architecture that has such a tokenizer."""
