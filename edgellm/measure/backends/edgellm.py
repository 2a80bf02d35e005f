"""EdgeLLM itself, in this process."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import edgellm
from edgellm import Engine
from edgellm.errors import InvalidRequestError
from edgellm.formats import open_checkpoint
from edgellm.formats.fetch import resolve_model
from edgellm.measure.backends.protocol import F32
from edgellm.measure.fingerprint import git_commit
from edgellm.ops import native


class EdgeLLMBackend:
    """`Backend` and `TokenBackend` over an `Engine`, which gets the options that this one is given.

    fixed_team: every round runs on all the threads that its record names; otherwise on fewer while others keep some from running.
    """

    name = "edgellm"

    def __init__(self, model: Path, *, threads: int, context: int, fixed_team: bool = True, **options: Any) -> None:
        self.engine = Engine(model, threads=threads, context=context, fixed_team=fixed_team, **options)
        self._model, self._fixed_team = model, fixed_team
        self.vocab_size: int = self.engine.config.vocab_size
        self.threads = threads
        self.process_id = os.getpid()

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """See `Backend.generate`."""
        self.engine.reset()
        for token in self.engine.generate(prompt, max_tokens=max_tokens, ignore_eos=True):
            yield token.text

    def count_tokens(self, text: str) -> int:
        """See `Backend.count_tokens`."""
        return len(self.engine.tokenizer.encode(text))

    def prefill(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.prefill`; the reset keeps the cached prefix of the last prompt from being reused."""
        self.engine.reset()
        return self.engine.prefill(token_ids)

    def decode(self, token_id: int) -> F32:
        """See `TokenBackend.decode`."""
        return self.engine.decode(token_id)

    def logits(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.logits`."""
        return self.engine.logits(token_ids)

    def description(self) -> dict[str, Any]:
        """See `Backend.description`."""
        checkpoint = open_checkpoint(self._model)
        shapes_and_bytes = [(tensor.shape, tensor.nbytes) for tensor in checkpoint.tensors.values()]
        return {
            "backend_version": edgellm.__version__,
            "build_commit": git_commit(Path(edgellm.__file__).parent),
            "csrc_hash": native.csrc_hash(),
            "isa": self.engine.isa,
            "model_filename": self._model.name,
            "model_type": checkpoint.config.get("model_type"),
            "model_size": sum(size for _, size in shapes_and_bytes),
            "model_n_params": sum(math.prod(shape) for shape, _ in shapes_and_bytes),
            "settings": {
                "context": self.engine.context,
                "kv_dtype": self.engine.kv_dtype,
                "realtime": self.engine.realtime,
                "fixed_team": self._fixed_team,
            },
        }

    def unload(self) -> None:
        """See `TokenBackend.unload`."""
        self.engine.close()


def load(model: str, *, threads: int, context: int, url: str | None = None) -> EdgeLLMBackend:
    """See `LoadBackend`: a `.tmac2.bin` file, or the name of a converted model in the cache."""
    if url:
        raise InvalidRequestError(f"the backend edgellm runs in this process; it takes no URL, but {url} was given")
    return EdgeLLMBackend(resolve_model(model), threads=threads, context=context)
