"""llama.cpp through llama-cpp-python, driven as llama-bench drives it: llama_decode on plain token ids.

llama.cpp's own defaults hold (n_batch 2048, n_ubatch 512, f16 cache, memory-mapped weights, repacking on). Only the last token's
logits are asked for, except in `logits`. Its binding costs a few microseconds a call, which are in its times as ours are in ours.
"""

from __future__ import annotations

import codecs
import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.errors import InvalidRequestError, ModelFileError
from edgellm.formats.fetch import resolve_source
from edgellm.measure.backends.protocol import F32, BackendUnavailableError

N_BATCH = 2048
N_UBATCH = 512


class LlamaCppBackend:
    """`Backend` and `TokenBackend` over llama.cpp; `flash_attention` is off by default, as in llama.cpp's own binding."""

    def __init__(self, model: Path, *, threads: int, context: int, flash_attention: bool = False) -> None:
        self._llama_cpp = binding()
        self.name = "llama.cpp+fa" if flash_attention else "llama.cpp"
        self.threads = threads
        self._flash_attention = flash_attention
        try:
            self._llama = self._llama_cpp.Llama(
                model_path=str(model),
                n_ctx=context,
                n_batch=N_BATCH,
                n_ubatch=N_UBATCH,
                n_threads=threads,
                n_threads_batch=threads,
                flash_attn=flash_attention,
                verbose=False,
            )
        except ValueError as error:
            raise ModelFileError(f"llama.cpp cannot load {model}: {error}") from error
        self.vocab_size: int = self._llama.n_vocab()
        self.process_id = os.getpid()

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """See `Backend.generate`; the likeliest token is found by NumPy, which takes microseconds."""
        text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        logits = self.prefill(self._tokenize(prompt))
        for number in range(1, max_tokens + 1):
            token = int(logits.argmax())
            yield text.decode(self._llama.detokenize([token]))
            if number < max_tokens:
                logits = self.decode(token)

    def count_tokens(self, text: str) -> int:
        """See `Backend.count_tokens`."""
        return len(self._tokenize(text))

    def prefill(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.prefill`."""
        self._clear()
        self._run(token_ids)
        return self._output(1).reshape(-1)

    def decode(self, token_id: int) -> F32:
        """See `TokenBackend.decode`."""
        self._run([token_id])
        return self._output(1).reshape(-1)

    def logits(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.logits`."""
        self._clear()
        rows = []
        for start in range(0, len(token_ids), N_UBATCH):
            part = token_ids[start : start + N_UBATCH]
            self._run(part, every_output=True)
            rows.append(self._output(len(part)).copy())
        return np.concatenate(rows)

    def description(self) -> dict[str, Any]:
        """See `Backend.description`; `isa` is llama.cpp's list of what it was built for and found."""
        model = self._llama.model
        return {
            "backend_version": f"llama-cpp-python {self._llama_cpp.__version__}",
            "build_commit": None,  # the library does not say; its version does
            "csrc_hash": None,
            "isa": self._llama_cpp.llama_print_system_info().decode().strip(" |"),
            "model_filename": Path(self._llama.model_path).name,
            "model_type": self._llama.metadata.get("general.architecture"),
            "model_size": int(self._llama_cpp.llama_model_size(model)),
            "model_n_params": int(self._llama_cpp.llama_model_n_params(model)),
            "settings": {"n_batch": N_BATCH, "n_ubatch": N_UBATCH, "flash_attention": self._flash_attention},
        }

    def unload(self) -> None:
        """See `TokenBackend.unload`."""
        self._llama.close()

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=False)
        return ids

    def _clear(self) -> None:
        self._llama_cpp.llama_memory_clear(self._llama_cpp.llama_get_memory(self._llama.ctx), False)

    def _run(self, token_ids: Sequence[int], every_output: bool = False) -> None:
        count = len(token_ids)
        tokens = (ctypes.c_int32 * count)(*token_ids)  # the batch only points at it
        batch = self._llama_cpp.llama_batch_get_one(tokens, count)
        if every_output:
            batch.logits = (ctypes.c_int8 * count)(*[1] * count)
        status = self._llama_cpp.llama_decode(self._llama.ctx, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status} for {count} tokens in a context of {self._llama.n_ctx()}")
        self._llama_cpp.llama_synchronize(self._llama.ctx)

    def _output(self, rows: int) -> F32:
        pointer = self._llama_cpp.llama_get_logits(self._llama.ctx)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.vocab_size))


def load(model: str, *, threads: int, context: int, url: str | None = None) -> LlamaCppBackend:
    """See `LoadBackend`: a GGUF file, or the name of a fetched model whose file is one."""
    if url:
        raise InvalidRequestError(f"the backend llama.cpp runs in this process; it takes no URL, but {url} was given")
    return LlamaCppBackend(resolve_source(model), threads=threads, context=context)


def binding() -> Any:
    """The module `llama_cpp`; BackendUnavailableError if it is not installed."""
    try:
        import llama_cpp
    except ImportError as error:
        raise BackendUnavailableError(
            f"the backend llama.cpp is not available: {error}. Install it with: pip install 'edgellm[baselines]'"
        ) from error
    return llama_cpp
