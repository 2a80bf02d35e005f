"""A Llama model as an ONNX graph that is quick on ONNX Runtime's CPU provider, with the weights of one of our own files.

NAME.onnx is the graph, with the tokenizer, the config and what a record says of the model in its metadata; NAME.onnx.data its weights.
The operators are those of onnxruntime-genai's models, and the cache is one buffer that past and present share:

    input_ids [1, L] ─▶ GatherBlockQuantized ─▶ ┌─ each layer ────────────────────────────────────────────────────────┐
                                                │ SkipSimplifiedLayerNormalization ─▶ MatMulNBits: q, k, v at once    │
                                                │     ─▶ GroupQueryAttention, with RoPE and cache ─▶ MatMulNBits      │
                                                │ SkipSimplifiedLayerNormalization ─▶ MatMulNBits: gate, up at once   │
                                                │     ─▶ QuickGelu(gate), which is SiLU, x up ─▶ MatMulNBits          │
                                                └─────────────────────────────────────────────────────────────────────┘
    ─▶ Slice: the tokens from first_output on ─▶ SkipSimplifiedLayerNormalization ─▶ MatMulNBits ─▶ logits [1, L - first_output, V]

Weights stay what they are. MatMulNBits computes w = scale (code - 2^(bits - 1)), which is int4-g32 and int8-g32. int4-min-g32 has minimums
that are no multiples of the scale; MatMulNBits takes those as float zero points only where it dequantizes the whole matrix for each call.
So what is left of them, minimum + 8 scale, is multiplied with the sums of 32 activations each, in float32, and added.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats import open_checkpoint
from edgellm.formats.architecture import EMBEDDING, HEAD
from edgellm.formats.atomic import replacing
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.fetch import MOVE_THE_CACHE, SUFFIX, home
from edgellm.formats.matrix import BLOCK, INT4, INT4_MIN, INT8, INTEGER_BITS, QuantizedMatrix
from edgellm.formats.tensors import LazyTensors
from edgellm.measure.backends import onnx_graph
from edgellm.measure.backends.onnx_graph import MICROSOFT, Graph
from edgellm.model.config import ModelConfig
from edgellm.model.rope import cos_sin

INT8_ACTIVATIONS, FLOAT_ACTIVATIONS = 4, 0
"""MatMulNBits' accuracy_level: activations in int8 with a scale per 32 of them, for its quickest kernels, or in float32."""


def cached_model(source: Path) -> Path:
    """The graph of a model file, models/NAME-DIGEST.onnx of the cache, built if it is not there; raises what `build` raises.

    The digest is that of the code that builds it and of where the source lies, its size and time.
    """
    try:
        status = source.stat()
    except OSError as error:
        raise ModelFileError(f"{source}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(f"{source.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    for code in (__file__, onnx_graph.__file__):
        digest.update(Path(code).read_bytes())
    name = source.name.removesuffix(SUFFIX).removesuffix(".gguf")
    path = home() / "models" / f"{name}-{digest.hexdigest()[:12]}.onnx"
    return path if path.exists() else build(source, path)


def build(source: Path, destination: Path, accuracy_level: int = INT8_ACTIVATIONS) -> Path:
    """Write the graph of a model file to `destination`, NAME.onnx, and its weights beside it; gives back `destination`.

    An attempt that fails leaves nothing behind. ModelFileError and UnsupportedModelError as from `open_checkpoint`; UnsupportedModelError
    for a matrix that MatMulNBits cannot hold as it is; FetchError if it cannot be written; BackendUnavailableError.
    """
    checkpoint = open_checkpoint(source)
    data_path = destination.with_name(f"{destination.name}.data")
    with replacing(destination, MOVE_THE_CACHE) as file, replacing(data_path, MOVE_THE_CACHE) as data:
        graph = Graph(data, data_path.name)
        config = ModelConfig.from_hf(checkpoint.config)
        config.require_llama("the ONNX graph")
        _Llama(graph, config, checkpoint, accuracy_level).forward()
        specs = LazyTensors.over(checkpoint.tensors).specs.values()
        facts = {
            "config": checkpoint.config,
            "accuracy_level": accuracy_level,
            "schemes": sorted({spec.form for spec in specs if spec.scheme}),
            "model_size": data.tell(),
            "model_n_params": sum(math.prod(spec.shape) for spec in specs),
        }
        file.write(graph.serialized("llama", {"edgellm": json.dumps(facts), "tokenizer_json": checkpoint.tokenizer_json}))
    return destination


@dataclass(frozen=True)
class _Llama:
    """Appends a model to a graph. Activations are float32 [1, L, ...]."""

    graph: Graph
    config: ModelConfig
    checkpoint: Checkpoint
    accuracy_level: int

    def forward(self) -> None:
        """The whole model."""
        graph, config = self.graph, self.config
        graph.input("input_ids", np.int64, [1, "L"])
        graph.input("seqlens_k", np.int32, [1])  # tokens in the cache after this call, less one
        graph.input("total_sequence_length", np.int32, [])  # the same tokens
        graph.input("first_output", np.int64, [1])
        for name, table in zip(("cos", "sin"), cos_sin(config.rope, config.head_dim, config.max_position_embeddings), strict=True):
            graph.weights(name, table)
        graph.constant("group_shape", [0, 0, -1, BLOCK])
        graph.constant("last_axis", [-1])
        graph.constant("gate_up_sizes", [config.intermediate_size] * 2)

        hidden, added = self._embedding(), ""
        for layer in range(config.num_hidden_layers):
            hidden, added = self._layer(f"model.layers.{layer}", layer, hidden, added)
        graph.constant("end", [np.iinfo(np.int64).max])
        graph.constant("token_axis", [1])
        hidden, added = (graph.node("Slice", [x, "first_output", "end", "token_axis"], f"{x}.outputs") for x in (hidden, added))
        normed, _ = self._norm("model.norm", hidden, added)
        graph.output(
            self._matmul("logits", normed, [EMBEDDING if config.tie_word_embeddings else HEAD]),
            np.float32,
            [1, "outputs", config.vocab_size],
        )

    def _layer(self, prefix: str, layer: int, hidden: str, added: str) -> tuple[str, str]:
        """One decoder layer: the residual stream, and what is still to be added to it."""
        graph, config = self.graph, self.config
        normed, hidden = self._norm(f"{prefix}.input_layernorm", hidden, added)
        qkv = self._matmul(f"{prefix}.self_attn.qkv", normed, [f"{prefix}.self_attn.{name}_proj.weight" for name in "qkv"])
        cache_shape: list[int | str] = [1, config.num_key_value_heads, "context", config.head_dim]
        past = [graph.input(f"past_key_values.{layer}.{kind}", np.float32, cache_shape) for kind in ("key", "value")]
        present = [graph.output(f"present.{layer}.{kind}", np.float32, cache_shape) for kind in ("key", "value")]
        mixed = graph.node(
            "GroupQueryAttention",
            [qkv, "", "", *past, "seqlens_k", "total_sequence_length", "cos", "sin"],
            [f"{prefix}.self_attn", *present],
            MICROSOFT,
            num_heads=config.num_attention_heads,
            kv_num_heads=config.num_key_value_heads,
            do_rotary=1,
        )
        added = self._matmul(f"{prefix}.self_attn.o", mixed, [f"{prefix}.self_attn.o_proj.weight"])

        normed, hidden = self._norm(f"{prefix}.post_attention_layernorm", hidden, added)
        gate_up = self._matmul(f"{prefix}.mlp.gate_up", normed, [f"{prefix}.mlp.{name}_proj.weight" for name in ("gate", "up")])
        gate, up = f"{prefix}.mlp.gate", f"{prefix}.mlp.up"
        graph.node("Split", [gate_up, "gate_up_sizes"], [gate, up], axis=-1)
        activated = graph.node("QuickGelu", [gate], f"{prefix}.mlp.act_fn", MICROSOFT, alpha=1.0)
        gated = graph.node("Mul", [activated, up], f"{prefix}.mlp.gated")
        return hidden, self._matmul(f"{prefix}.mlp.down", gated, [f"{prefix}.mlp.down_proj.weight"])

    def _norm(self, name: str, hidden: str, added: str) -> tuple[str, str]:
        """hidden + added, normed; and that sum itself. Nothing is added before the first layer."""
        gamma = self.graph.weights(f"{name}.weight", np.asarray(self.checkpoint.tensors[f"{name}.weight"], np.float32))
        epsilon = self.config.rms_norm_eps
        if not added:
            return self.graph.node("SimplifiedLayerNormalization", [hidden, gamma], name, axis=-1, epsilon=epsilon), hidden
        outputs = [name, "", "", f"{name}.sum"]
        self.graph.node("SkipSimplifiedLayerNormalization", [hidden, added, gamma], outputs, MICROSOFT, epsilon=epsilon)
        return outputs[0], outputs[-1]

    def _embedding(self) -> str:
        matrix = self._matrix(EMBEDDING)
        if matrix.scheme == INT4_MIN:
            raise UnsupportedModelError(
                f"tensor {EMBEDDING} is {INT4_MIN}; GatherBlockQuantized has no minimums: {INT4} or {INT8} is needed"
            )
        codes = self.graph.weights("embed_tokens.codes", _unsigned(matrix))
        scales = self.graph.weights("embed_tokens.scales", matrix.scales.astype(np.float32))
        bits = INTEGER_BITS[matrix.scheme.family]
        attributes = {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return self.graph.node("GatherBlockQuantized", [codes, "input_ids", scales], "model.embed_tokens", MICROSOFT, **attributes)

    def _matmul(self, name: str, x: str, tensors: list[str]) -> str:
        """The products of an activation with several matrices, side by side: one MatMulNBits."""
        matrices = [self._matrix(tensor) for tensor in tensors]
        scheme = matrices[0].scheme
        if other := next((tensor for tensor, matrix in zip(tensors, matrices, strict=True) if matrix.scheme != scheme), None):
            raise UnsupportedModelError(f"tensors {tensors[0]} and {other} are of two schemes; the ONNX graph multiplies with both at once")
        codes = np.concatenate([_unsigned(matrix) for matrix in matrices])
        scales = np.concatenate([matrix.scales for matrix in matrices]).astype(np.float32)
        rows, groups = scales.shape
        product = self.graph.node(
            "MatMulNBits",
            [x, self.graph.weights(f"{name}.codes", codes.reshape(rows, groups, -1)), self.graph.weights(f"{name}.scales", scales)],
            f"{name}.scaled" if scheme.has_min else name,
            MICROSOFT,
            K=groups * BLOCK,
            N=rows,
            bits=INTEGER_BITS[scheme.family],
            block_size=BLOCK,
            accuracy_level=self.accuracy_level,
        )
        if not scheme.has_min:
            return product
        rest = np.concatenate([matrix.minimums for matrix in matrices]).astype(np.float32) + 8 * scales
        grouped = self.graph.node("Reshape", [x, "group_shape"], f"{name}.groups")
        sums = self.graph.node("ReduceSum", [grouped, "last_axis"], f"{name}.sums", keepdims=0)
        minimums = self.graph.node("MatMul", [sums, self.graph.weights(f"{name}.minimums", rest.T)], f"{name}.offsets")
        return self.graph.node("Add", [product, minimums], name)

    def _matrix(self, tensor: str) -> QuantizedMatrix:
        """A matrix that the operators can hold as it is; UnsupportedModelError if they can't."""
        matrix = self.checkpoint.tensors[tensor]
        if isinstance(matrix, QuantizedMatrix) and matrix.scheme in (INT4, INT4_MIN, INT8):
            return matrix
        form = matrix.scheme if isinstance(matrix, QuantizedMatrix) else matrix.dtype
        raise UnsupportedModelError(f"tensor {tensor} is {form}; the ONNX graph can have {INT4}, {INT4_MIN} and {INT8}")


def _unsigned(matrix: QuantizedMatrix) -> npt.NDArray[np.uint8]:
    """Codes [N, bytes of a row] as ONNX Runtime has them: the first column in the low nibble, bytes with an offset of 128."""
    codes = matrix.codes.view(np.uint8)
    return codes ^ np.uint8(128) if matrix.scheme == INT8 else codes
