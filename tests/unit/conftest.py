"""A tokenizer small enough to read, and an engine that says what a test wrote down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.errors import CacheReplacedError, ContextOverflowError
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.formats.tmac2 import write_tmac2
from edgellm.text.spelling import BYTE_OF
from edgellm.text.tokenizer import Tokenizer
from tests.unit.runtime.synthetic import checkpoint

SPECIAL = ["<|im_start|>", "<|im_end|>"]
START, END = 0, 1
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def gguf_tokenizer_metadata() -> dict[str, Any]:
    """Two control tokens, a user-defined one, all 256 bytes, and merges: "12" is out of reach of single digits, "aÃ" ends inside é."""
    merges = ["h i", "Ġ hi", "1 2", "Ġ Ġ", "a Ã"]
    tokens = [*SPECIAL, "<user>", *BYTE_OF, *(merge.replace(" ", "") for merge in merges)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 4] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": START,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


@pytest.fixture(scope="session")
def tokenizer_json(gguf_tokenizer_metadata: dict[str, Any]) -> str:
    return tokenizer_json_from_gguf(gguf_tokenizer_metadata)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_json: str) -> Tokenizer:
    return Tokenizer(tokenizer_json, {"bos_token_id": START, "eos_token_id": END})


@pytest.fixture(scope="session")
def synthetic_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Path:
    """A model file: two layers, 271 tokens, every scheme."""
    path = tmp_path_factory.mktemp("model") / "synthetic.tmac2.bin"
    write_tmac2(path, checkpoint(tokenizer_json))
    return path


class ScriptedEngine:
    """An engine whose most probable tokens are a script: ids, or an exception to raise in their place.

    Each `prefill` goes on in the script where the last generation left it, so that one script holds several answers.
    """

    def __init__(self, tokenizer: Tokenizer, script: Sequence[int | BaseException], context: int = 64) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.chat_template: str | None = CHAT_TEMPLATE
        self.path = Path("scripted.tmac2.bin")
        self.prompts: list[list[int]] = []
        self.resets = 0
        self.epoch = 0
        self._script = iter(script)
        self._cached = 0

    def prefill(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        if len(token_ids) > self.context:
            raise ContextOverflowError(f"{len(token_ids)} tokens, context {self.context}")
        self.prompts.append(list(token_ids))
        self.epoch += 1
        self._cached = len(token_ids)
        return self._next_logits()

    def decode(self, token_id: int, epoch: int | None = None) -> npt.NDArray[np.float32]:
        if epoch not in (None, self.epoch):
            raise CacheReplacedError
        assert self._cached < self.context, "decoded a token that does not fit"
        self._cached += 1
        return self._next_logits()

    def reset(self) -> None:
        self.resets += 1

    def _next_logits(self) -> npt.NDArray[np.float32]:
        item = next(self._script)
        if isinstance(item, BaseException):
            raise item
        logits = np.zeros(self.tokenizer.vocab_size, np.float32)
        logits[item] = 1
        return logits


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., ScriptedEngine]:
    """scripted("some text", END, KeyboardInterrupt(), ..., context=64): texts stand for their ids."""

    def make(*script: str | int | BaseException, context: int = 64) -> ScriptedEngine:
        items: list[int | BaseException] = []
        for item in script:
            items += tokenizer.encode(item) if isinstance(item, str) else [item]
        return ScriptedEngine(tokenizer, items, context)

    return make
