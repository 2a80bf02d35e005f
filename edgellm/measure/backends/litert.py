"""LiteRT, which TensorFlow Lite is called now, through ai-edge-litert: its interpreter with its delegate for processors, XNNPACK.

The model is built from our own weights by `litert_model`, once, into the cache. A step resizes the inputs to its number of tokens and to
that of the cached ones, in steps of KEYS, which takes a fraction of a millisecond and happens when either changes; what is cached goes
through `_cache` then, and stays in the inputs otherwise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgellm.errors import ContextOverflowError, InvalidRequestError, ModelFileError
from edgellm.formats import open_checkpoint
from edgellm.formats.atomic import replacing
from edgellm.formats.digest import sha256_of
from edgellm.formats.fetch import MOVE_THE_CACHE, SUFFIX, home, resolve_model
from edgellm.measure.backends.greedy import continue_greedily
from edgellm.measure.backends.protocol import F32, BackendUnavailableError
from edgellm.model.config import ModelConfig
from edgellm.text.tokenizer import Tokenizer

BUILT = ".tflite"
CHUNK = 512
"""Tokens that a prompt is run in at once."""
KEYS = 128
"""The cached keys that attention reads are a multiple of this, those that hold nothing being masked; none for the start of a text."""
NOTHING = (0, 0, 0)
"""The shape of inputs that hold less than the cache."""
MASKED = np.float32(-1e9)  # exp of it is 0, and it is finite


class LiteRTBackend:
    """`Backend` and `TokenBackend` over a file that `built` made."""

    name = "litert"

    def __init__(self, model: Path, *, threads: int, context: int) -> None:
        interpreter, litert_model = binding()
        self._facts = litert_model.read_facts(model)
        self._config = ModelConfig.from_hf(self._facts.config)
        self._tokenizer = Tokenizer(self._facts.tokenizer_json, self._facts.config)
        self._model = model
        self._context = context
        self.vocab_size = self._config.vocab_size
        self.threads = threads
        self.process_id = os.getpid()
        c = self._config
        self._cos, self._sin = litert_model.rope_tables(c, context)
        self._cache = np.zeros((2 * c.num_hidden_layers, c.num_key_value_heads, context, c.head_dim), np.float32)
        self._position = 0
        self._shape = NOTHING
        try:
            self._interpreter = interpreter.Interpreter(str(model), num_threads=threads)
            details = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
            self._index = {tensor["name"]: tensor["index"] for tensor in details}
            self._views = {name: self._interpreter.tensor(index) for name, index in self._index.items()}
            self._cache_names = [f"{what}_{layer}" for what in ("keys", "values") for layer in range(c.num_hidden_layers)]
            with _quiet():
                self._fit(1, 1)  # here XNNPACK packs the weights
        except (RuntimeError, ValueError) as error:
            raise ModelFileError(f"LiteRT cannot load {model}: {error}") from error

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """See `Backend.generate`."""
        return continue_greedily(self, self._tokenizer, prompt, max_tokens)

    def count_tokens(self, text: str) -> int:
        """See `Backend.count_tokens`."""
        return len(self._tokenizer.encode(text))

    def prefill(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.prefill`. InvalidRequestError: no tokens; ContextOverflowError."""
        last: F32 = self._from_start(token_ids, every_output=False)[-1][-1]
        return last

    def decode(self, token_id: int) -> F32:
        """See `TokenBackend.decode`. ContextOverflowError."""
        last: F32 = self._run([token_id], [0])[0]
        return last

    def logits(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.logits`. InvalidRequestError: no tokens; ContextOverflowError."""
        return np.concatenate(self._from_start(token_ids, every_output=True))

    def description(self) -> dict[str, Any]:
        """See `Backend.description`; XNNPACK does not say which instructions it uses."""
        return {
            "backend_version": f"ai-edge-litert {metadata.version('ai-edge-litert')}",
            "build_commit": None,
            "csrc_hash": None,
            "isa": None,
            "model_filename": self._model.name,
            "model_type": self._facts.config.get("model_type"),
            "model_size": self._facts.model_size,
            "model_n_params": self._facts.n_params,
            "settings": {
                "delegate": "XNNPACK",
                "context": self._context,
                "kv_dtype": "float32",
                "prefill_chunk": CHUNK,
                "keys_rounded_up_to": KEYS,
                "weights": self._facts.weights,
                "activations": "int8 with a scale and a zero point per token, where they meet a quantized matrix",
            },
        }

    def unload(self) -> None:
        """See `TokenBackend.unload`."""
        del self._views, self._interpreter, self._cache

    def _from_start(self, token_ids: Sequence[int], every_output: bool) -> list[F32]:
        """The logits of each chunk: of all its tokens or of its last."""
        if not token_ids:
            raise InvalidRequestError("there are no tokens to run; at least one is needed")
        self._position = 0
        chunks = [token_ids[start : start + CHUNK] for start in range(0, len(token_ids), CHUNK)]
        return [self._run(chunk, range(len(chunk)) if every_output else [len(chunk) - 1]) for chunk in chunks]

    def _run(self, token_ids: Sequence[int], outputs: Sequence[int]) -> F32:
        """Append tokens: the logits [O, V] after those of them that `outputs` names."""
        if not 0 <= min(token_ids) <= max(token_ids) < self.vocab_size:
            raise InvalidRequestError(f"ids from {min(token_ids)} to {max(token_ids)} are not within the vocabulary of {self.vocab_size}")
        start, end = self._position, self._position + len(token_ids)
        if end > self._context:
            raise ContextOverflowError(f"the context of {self._context} tokens cannot hold {end}; load with a larger one")
        self._fit(len(token_ids), len(outputs))
        given = {"tokens": token_ids, "outputs": outputs, "cos": self._cos[start:end], "sin": self._sin[start:end]}
        for name, values in (given | {"mask": self._mask(len(token_ids))}).items():
            self._views[name]()[:] = values
        self._interpreter.invoke()
        self._keep(start, end)
        self._position = end
        logits: F32 = self._views["logits"]().copy()  # a view would keep the interpreter from running again
        return logits

    def _fit(self, length: int, outputs: int) -> None:
        """Make the inputs fit so many tokens after the cached ones, which are in them then."""
        c = self._config
        cached = -(-self._position // KEYS) * KEYS or 1  # no dimension may be 0
        if (length, outputs, cached) == self._shape:
            return
        rows = length * c.num_attention_heads // c.num_key_value_heads
        shapes = {"tokens": (length,), "outputs": (outputs,), "cos": (length, c.head_dim), "sin": (length, c.head_dim)}
        shapes |= {"mask": (1, rows, length + cached)} | dict.fromkeys(self._cache_names, (c.num_key_value_heads, cached, c.head_dim))
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._index[name], shape)
        self._interpreter.allocate_tensors()
        for name, kept in zip(self._cache_names, self._cache, strict=True):
            tensor = self._views[name]()
            tensor[:, : self._position], tensor[:, self._position :] = kept[:, : self._position], 0
        self._shape = length, outputs, cached

    def _mask(self, length: int) -> F32:
        """[R L, T + L]: what is added to the scores."""
        cached = self._shape[2]
        mask = np.full((length, cached + length), MASKED, np.float32)
        mask[:, : self._position] = 0
        mask[:, cached:][np.tril_indices(length)] = 0
        return np.tile(mask, (self._config.num_attention_heads // self._config.num_key_value_heads, 1))

    def _keep(self, start: int, end: int) -> None:
        """Put the new keys and values into the inputs; where the next step can hardly have the same shape, all of them into the cache."""
        if end - start == 1 and end <= self._shape[2]:
            for name in self._cache_names:
                self._views[name]()[:, start:end] = self._views[f"new_{name}"]()
            return
        for name, kept in zip(self._cache_names, self._cache, strict=True):
            kept[:, :start], kept[:, start:end] = self._views[name]()[:, :start], self._views[f"new_{name}"]()
        self._shape = NOTHING


def load(model: str, *, threads: int, context: int, url: str | None = None) -> LiteRTBackend:
    """See `LoadBackend`: a model as `edgellm` takes it, which is built for LiteRT when it is first asked for, or a file so built."""
    if url:
        raise InvalidRequestError(f"the backend litert runs in this process; it takes no URL, but {url} was given")
    binding()
    path = Path(model) if model.endswith(BUILT) else built(resolve_model(model))
    return LiteRTBackend(path, threads=threads, context=context)


def built(model: Path) -> Path:
    """The file in the cache that a model was built into for LiteRT, which is built if there is none of this model by this code."""
    _, litert_model = binding()
    digest = hashlib.sha256(sha256_of(model).encode())
    for source in ("litert_model.py", "litert_graph.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    name = model.name.removesuffix(SUFFIX).removesuffix(".gguf")
    target = home() / "models" / f"{name}.litert-{digest.hexdigest()[:12]}{BUILT}"
    if not target.exists():
        checkpoint = open_checkpoint(model)
        with replacing(target, MOVE_THE_CACHE) as file:
            litert_model.build(checkpoint, file)
    return target


def binding() -> tuple[ModuleType, ModuleType]:
    """The interpreter's module and our builder, which needs the schema; BackendUnavailableError if they are not installed."""
    try:
        from ai_edge_litert import interpreter

        from edgellm.measure.backends import litert_model
    except ImportError as error:
        raise BackendUnavailableError(
            f"the backend litert is not available: {error}. Install it with: pip install 'edgellm[baselines]'"
        ) from error
    return interpreter, litert_model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the C++ code's notices off standard error, where it has no switch for them; its errors come as exceptions all the same."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
