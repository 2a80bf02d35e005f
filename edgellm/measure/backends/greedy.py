"""Text from an engine that knows only ids and logits."""

from __future__ import annotations

from collections.abc import Iterator

from edgellm.measure.backends.protocol import TokenBackend
from edgellm.text.tokenizer import StreamDecoder, Tokenizer


def continue_greedily(backend: TokenBackend, tokenizer: Tokenizer, prompt: str, max_tokens: int) -> Iterator[str]:
    """`Backend.generate` over `TokenBackend`'s calls: the likeliest token, again and again."""
    prompt_ids = tokenizer.encode(prompt)
    decoder = StreamDecoder(tokenizer, after=prompt_ids)
    logits = backend.prefill(prompt_ids)
    for number in range(1, max_tokens + 1):
        token = int(logits.argmax())
        yield decoder.push(token)
        if number < max_tokens:
            logits = backend.decode(token)
