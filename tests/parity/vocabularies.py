"""SentencePiece vocabularies small enough to read, with what is hard in real ones: scores that tie, spaces in runs, user-defined tokens."""

from __future__ import annotations

from pathlib import Path
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

TEXTS = (
    *("", " ", "   ", "the", " the and", "  the    a     an", "there ere re", "日本 é ö 👍🏽", "a\n\n\nb\t<b>/s </s", "the</s>an <s> the"),
    *("▁the▁▁", ":::::::", "<0x0A><unk>", "12 1 2  ", "a" + " " * 9 + "a", "\x00\x7f\u00a0", "<b><b", "the\r\nthe "),
)
"""What they are asked."""


def write_gguf(path: Path, architecture: str, keys: dict[str, Any]) -> None:
    """A GGUF file of a vocabulary and nothing else, as llama.cpp's own tests have them."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_vocab_size(len(keys["tokenizer.ggml.tokens"]))
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_block_count, writer.add_head_count):
        add(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in keys.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case str():
                writer.add_string(key, value)
            case int():
                writer.add_uint32(key, value)
            case _:
                writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
