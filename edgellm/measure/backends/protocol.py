"""What an engine must offer to be measured: three calls over token ids. Nobody behind it reads a clock; the caller does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import EdgeLLMError

F32 = npt.NDArray[np.float32]


class BackendUnavailableError(EdgeLLMError):
    """A backend cannot run here; the message names it, why, and how to get it."""


class Backend(Protocol):
    """An engine with one model loaded. V is the vocabulary, L the number of tokens given.

    name:       as results name it, e.g. "edgellm"
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
        """What a record says of it: `backend_version`, `build_commit` and `csrc_hash` (of its own sources; None where unknown), `isa`,
        `settings`, and of the model `model_filename`, `model_type`, `model_size` (bytes of weights) and `model_n_params`.
        """

    def unload(self) -> None:
        """Free the model; no other call may follow."""


class LoadBackend(Protocol):
    """How each backend is loaded; `context` is the number of tokens that it must hold."""

    def __call__(self, model: Path, *, threads: int, context: int) -> Backend:
        """Load a model file."""
