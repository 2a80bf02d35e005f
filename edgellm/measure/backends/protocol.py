"""What an engine must offer to be measured. Nobody behind it reads a clock: the caller does, the same way for every engine.

`Backend` is for any engine, a server too: text in, one item out per token, as soon as it is known. `TokenBackend` is for engines that are
libraries: ids in, logits out. An engine that has both calls offers both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import EdgeLLMError

F32 = npt.NDArray[np.float32]


class BackendUnavailableError(EdgeLLMError):
    """A backend cannot run here; the message names it, why, and how to get it."""


class BackendFailedError(EdgeLLMError):
    """A backend broke off: its server went away, refused, or answered what its protocol has not. The message names it and says why."""


class Backend(Protocol):
    """An engine with one model loaded that continues texts, always with the likeliest token.

    name:       as results name it, e.g. "edgellm", "llama.cpp"
    threads:    how many it computes with; None where a server does not say
    process_id: of the process that computes, for its memory and time; None where that is not on this machine, or unknown
    """

    name: str
    threads: int | None
    process_id: int | None

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """Forget every earlier text, then continue this one: an item per token, as soon as it is known, its text (which may be empty).

        An end-of-sequence token ends nothing, where the engine can be told so; else there are fewer items. The work, tokenisation
        included, begins with the first `next()`. BackendFailedError.
        """

    def count_tokens(self, text: str) -> int | None:
        """How many tokens the text is for the model, none added; None where the engine does not say."""

    def description(self) -> dict[str, Any]:
        """What a record says of it; None where unknown: `backend_version`, `build_commit` and `csrc_hash` (of its own sources), `isa`,
        `settings`, and of the model `model_filename`, `model_type`, `model_size` (bytes of weights) and `model_n_params`.
        """

    def unload(self) -> None:
        """Free the model; no other call may follow."""


class LoadBackend(Protocol):
    """How each backend is loaded: the function `load` of its module."""

    def __call__(self, model: str, *, threads: int, context: int, url: str | None = None) -> Backend:
        """Load a model, which is named as the engine names its own, for texts of `context` tokens at most.

        url: of the server, for backends that are one. BackendUnavailableError; ModelFileError.
        """


class TokenBackend(Protocol):
    """An engine with one model loaded. V is the vocabulary, L the number of tokens given.

    name:       as in `Backend`
    vocab_size: V
    threads:    how many it computes with
    """

    name: str
    vocab_size: int
    threads: int

    def prefill(self, token_ids: Sequence[int]) -> F32:
        """Forget everything, then run the tokens at once: the logits [V] after the last, valid until the next call."""

    def decode(self, token_id: int) -> F32:
        """Append one token: the logits [V] after it, valid until the next call."""

    def logits(self, token_ids: Sequence[int]) -> F32:
        """Forget everything, then run the tokens: the logits [L, V] after each, an array of the caller's own."""

    def description(self) -> dict[str, Any]:
        """See `Backend.description`."""

    def unload(self) -> None:
        """Free the model; no other call may follow."""


class LoadTokenBackend(Protocol):
    """How a `TokenBackend` is loaded; `context` is the number of tokens that it must hold."""

    def __call__(self, model: Path, *, threads: int, context: int) -> TokenBackend:
        """Load a model file."""
