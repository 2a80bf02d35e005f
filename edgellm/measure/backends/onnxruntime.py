"""ONNX Runtime on its CPU provider, with a graph that is built from our own model files (`onnx_model.py`).

Its defaults hold (all graph optimisations, threads that spin while they wait, memory arena), with as many intra-op threads as asked for.
Every input and output, the cache among them, is bound to memory of ours (IO binding), so a token copies nothing but its id and logits.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.errors import ContextOverflowError, InvalidRequestError, ModelFileError
from edgellm.formats.fetch import resolve_model
from edgellm.formats.matrix import INT4_MIN
from edgellm.measure.backends.greedy import continue_greedily
from edgellm.measure.backends.onnx_graph import package
from edgellm.measure.backends.onnx_model import cached_model
from edgellm.measure.backends.protocol import F32
from edgellm.model.config import ModelConfig
from edgellm.text.tokenizer import Tokenizer

PROVIDER = "CPUExecutionProvider"
LOG_ERRORS = 3  # and no warnings: they would be lines among a program's own


class OnnxRuntimeBackend:
    """`Backend` and `TokenBackend` over a session; `model` is a graph that `onnx_model.build` wrote."""

    name = "onnxruntime"

    def __init__(self, model: Path, *, threads: int, context: int) -> None:
        self._onnxruntime = package("onnxruntime")
        self._model, self.threads, self._context = model, threads, context
        self._session = self._opened()
        metadata = self._session.get_modelmeta().custom_metadata_map
        if "edgellm" not in metadata:
            raise ModelFileError(
                f"{model}: an ONNX graph that EdgeLLM did not build; give the GGUF file or the .tmac2.bin to build it from"
            )
        self._facts = json.loads(metadata["edgellm"])
        config = ModelConfig.from_hf(self._facts["config"])
        if not 1 <= context <= config.max_position_embeddings:
            raise InvalidRequestError(f"a context of {context} is not possible; 1 to {config.max_position_embeddings} are")
        self._tokenizer = Tokenizer(metadata["tokenizer_json"], self._facts["config"])
        self.vocab_size = config.vocab_size
        self.process_id = os.getpid()
        self._cached = 0
        self._bind_state(config)

    def generate(self, prompt: str, max_tokens: int) -> Iterator[str]:
        """See `Backend.generate`."""
        return continue_greedily(self, self._tokenizer, prompt, max_tokens)

    def count_tokens(self, text: str) -> int:
        """See `Backend.count_tokens`."""
        return len(self._tokenizer.encode(text))

    def prefill(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.prefill`."""
        self._cached = 0
        return self._run(token_ids, outputs=1).reshape(-1)

    def decode(self, token_id: int) -> F32:
        """See `TokenBackend.decode`."""
        return self._run([token_id], outputs=1).reshape(-1)

    def logits(self, token_ids: Sequence[int]) -> F32:
        """See `TokenBackend.logits`."""
        self._cached = 0
        return self._run(token_ids, outputs=len(token_ids)).copy()

    def description(self) -> dict[str, Any]:
        """See `Backend.description`; ONNX Runtime does not say which instruction set its kernels are for."""
        commit = re.search(r"git-commit-id=(\w+)", self._onnxruntime.get_build_info())
        return {
            "backend_version": f"onnxruntime {self._onnxruntime.__version__}",
            "build_commit": commit and commit[1],
            "csrc_hash": None,
            "isa": None,
            "model_filename": self._model.name,
            "model_type": self._facts["config"]["model_type"],
            "model_size": self._facts["model_size"],
            "model_n_params": self._facts["model_n_params"],
            "settings": {
                "context": self._context,
                "kv_dtype": "float32",
                "execution_provider": PROVIDER,
                "graph_optimization_level": "all",
                "intra_op_num_threads": self.threads,
                "inter_op_num_threads": 1,
                "io_binding": True,
                "accuracy_level": self._facts["accuracy_level"],
                "schemes": self._facts["schemes"],
                "minimums": "float32 product with sums of activations, added" if str(INT4_MIN) in self._facts["schemes"] else None,
            },
        }

    def unload(self) -> None:
        """See `TokenBackend.unload`."""
        del self._binding, self._session

    def _opened(self) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = self._onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = LOG_ERRORS
        try:
            return self._onnxruntime.InferenceSession(self._model, options, providers=[PROVIDER])
        except Exception as error:  # its exceptions have no base but this one
            raise ModelFileError(f"onnxruntime cannot load {self._model}: {error}") from error

    def _bind_state(self, config: ModelConfig) -> None:
        """The cache, zeros [1, G, context, E] per layer, which each run reads and extends; and the numbers that say where it ends."""
        self._binding = self._session.io_binding()
        self._cache = np.zeros((config.num_hidden_layers, 2, 1, config.num_key_value_heads, self._context, config.head_dim), np.float32)
        for layer, of_layer in enumerate(self._cache):
            for kind, buffer in zip(("key", "value"), of_layer, strict=True):
                self._bind_input(f"past_key_values.{layer}.{kind}", buffer)
                self._bind_output(f"present.{layer}.{kind}", buffer)
        self._last = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)
        self._first_output = np.zeros(1, np.int64)
        self._bind_input("seqlens_k", self._last)
        self._bind_input("total_sequence_length", self._total)
        self._bind_input("first_output", self._first_output)
        self._bind_tokens(1, 1)

    def _bind_tokens(self, count: int, outputs: int) -> None:
        self._ids = np.zeros((1, count), np.int64)
        self._logits = np.zeros((1, outputs, self.vocab_size), np.float32)
        self._bind_input("input_ids", self._ids)
        self._bind_output("logits", self._logits)

    def _bind_input(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _bind_output(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def _run(self, token_ids: Sequence[int], outputs: int) -> F32:
        """Append tokens: the logits [outputs, V] after the last of them. InvalidRequestError; ContextOverflowError."""
        count = len(token_ids)
        if not count:
            raise InvalidRequestError("there are no tokens to run; at least one is needed")
        if self._cached + count > self._context:
            raise ContextOverflowError(f"{self._cached + count} tokens were given; the context holds {self._context}")
        if wrong := [token for token in token_ids if not 0 <= token < self.vocab_size]:  # GatherBlockQuantized would give something
            raise InvalidRequestError(f"token id {wrong[0]} is outside the vocabulary of {self.vocab_size}")
        if (count, outputs) != (self._ids.shape[1], self._logits.shape[1]):
            self._bind_tokens(count, outputs)
        self._ids[0] = token_ids
        self._cached += count
        self._total[...] = self._cached
        self._last[0] = self._cached - 1
        self._first_output[0] = count - outputs
        self._session.run_with_iobinding(self._binding)
        logits: F32 = self._logits[0]
        return logits


def load(model: str, *, threads: int, context: int, url: str | None = None) -> OnnxRuntimeBackend:
    """See `LoadBackend`: a graph that was built before (.onnx), a model file to build it from, or its name in the cache.

    Models are built once, into the cache; the first load of a model takes seconds longer.
    """
    if url:
        raise InvalidRequestError(f"the backend onnxruntime runs in this process; it takes no URL, but {url} was given")
    path = Path(model)
    return OnnxRuntimeBackend(path if path.suffix == ".onnx" else cached_model(resolve_model(model)), threads=threads, context=context)
