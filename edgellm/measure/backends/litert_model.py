"""A Llama model as one TensorFlow Lite graph, from a checkpoint's own weights: what the backend `litert` runs.

The graph takes L tokens after T cached ones, both sizes being set by resizing its inputs, so that one copy of the weights serves prefill
and decode and no token is padding. The cache lies outside: keys and values [G, T, E] of each layer come in, those of the L tokens go out.

    tokens int32 [L], outputs int32 [O] (the tokens of which the logits are wanted), cos and sin float32 [L, E] (`rope_tables`),
    mask float32 [1, R L, T + L], keys_i and values_i float32 [G, T, E]   ->   logits [O, V], new_keys_i and new_values_i [G, L, E]

with R = H / G, and row r L + l of the mask for token l. XNNPACK, LiteRT's delegate for processors, quantizes what meets a quantized matrix
to int8, with a scale and a zero point per token. Its 4-bit kernels know w = scale * level with levels -8..7 and a positive scale per group,
in bfloat16. A weight of a group with the scale s, the minimum m and the code c is

    s > 0:  s c + m = s (c - 8) + (m + 8 s)         s < 0:  s c + m = -s (7 - c) + (m + 7 s)

so codes and minimums stay what they are if the term in the second brackets, an offset for each group, is multiplied with the sum of the
group's activations; this is a small float32 matrix of its own, and done only where there are such offsets. For int8 there are no groups.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.architecture import EMBEDDING, HEAD, tensor_shapes
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.matrix import QuantizedMatrix, Scheme, pack_codes
from edgellm.measure.backends.litert_graph import VARIES, Graph, read_metadata
from edgellm.model.config import ModelConfig
from edgellm.model.rope import cos_sin

F32 = npt.NDArray[np.float32]

METADATA = "edgellm"
KEPT_INT4 = "codes and minimums are kept, scales rounded to bfloat16 by XNNPACK"
KEPT_INT8 = "kept"
REQUANTIZED = "requantised to int8 with a scale per row: not the same weights"


@dataclass(frozen=True)
class Facts:
    """What a built file says of itself.

    config, tokenizer_json: of the checkpoint
    weights:    in words, what became of the weights of each scheme or type: {"int8-g32": REQUANTIZED}
    model_size: bytes of weights
    n_params:   how many weights the checkpoint has
    """

    config: dict[str, Any]
    tokenizer_json: str
    weights: dict[str, str]
    model_size: int
    n_params: int


def build(checkpoint: Checkpoint, file: BinaryIO) -> None:
    """Write the model. UnsupportedModelError: an architecture that is not implemented, or a scheme that LiteRT has no kernel for."""
    config = ModelConfig.from_hf(checkpoint.config)
    config.require_llama("the LiteRT graph")
    decoder = _Decoder(config, checkpoint.tensors)
    outputs = decoder.forward()
    n_params = sum(math.prod(shape) for _, shape in tensor_shapes(checkpoint.config))
    facts = Facts(checkpoint.config, checkpoint.tokenizer_json, decoder.weights, decoder.graph.nbytes, n_params)
    decoder.graph.write(file, outputs, {METADATA: json.dumps(vars(facts)).encode()})


def read_facts(path: Path) -> Facts:
    """Of a file that `build` wrote. ModelFileError: another file, or a part of one."""
    metadata = read_metadata(path)
    if METADATA not in metadata:
        raise ModelFileError(f"{path}: this TensorFlow Lite model was not built here; give the model that it is to be built from")
    return Facts(**json.loads(metadata[METADATA]))


def rope_tables(config: ModelConfig, context: int) -> tuple[F32, F32]:
    """cos and sin, float32 [context, E], as the graph takes them: sin negative in the first half, and both times E^-1/4, because attention
    wants queries times keys / sqrt(E) and both pass through here."""
    scale = np.float32(config.head_dim**-0.25)
    cos, sin = cos_sin(config.rope, config.head_dim, context)
    return np.concatenate([cos, cos], axis=1) * scale, np.concatenate([-sin, sin], axis=1) * scale


@dataclass
class _Decoder:
    """The graph as it grows. A tensor is an integer, as in Graph."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    graph: Graph = field(default_factory=Graph)
    weights: dict[str, str] = field(default_factory=dict)
    group_sums: dict[tuple[int, int], int] = field(default_factory=dict)

    def forward(self) -> dict[str, int]:
        """The whole model: its outputs by their names."""
        c, g = self.config, self.graph
        tokens, wanted = g.input("tokens", "int32", VARIES), g.input("outputs", "int32", VARIES)
        cos, sin = (g.input(name, "float32", VARIES, c.head_dim) for name in ("cos", "sin"))
        mask = g.input("mask", "float32", 1, VARIES, VARIES)
        embedding = self.table(EMBEDDING)
        hidden = g.embedding_lookup(tokens, embedding)
        outputs: dict[str, int] = {}
        for i in range(c.num_hidden_layers):
            prefix = f"model.layers.{i}"
            cache = [g.input(f"{name}_{i}", "float32", c.num_key_value_heads, VARIES, c.head_dim) for name in ("keys", "values")]
            normed = self.norm(hidden, f"{prefix}.input_layernorm.weight")
            mixed, outputs[f"new_keys_{i}"], outputs[f"new_values_{i}"] = self.attention(normed, prefix, cos, sin, mask, *cache)
            hidden = g.binary("ADD", hidden, self.project(mixed, f"{prefix}.self_attn.o_proj.weight"))
            normed = self.norm(hidden, f"{prefix}.post_attention_layernorm.weight")
            hidden = g.binary("ADD", hidden, self.project(self.gated(normed, prefix), f"{prefix}.mlp.down_proj.weight"))
        final = self.norm(g.rows(hidden, wanted), "model.norm.weight")
        outputs["logits"] = g.fully_connected(final, embedding if c.tie_word_embeddings else self.table(HEAD))
        return outputs

    def attention(self, x: int, prefix: str, cos: int, sin: int, mask: int, keys: int, values: int) -> tuple[int, int, int]:
        """Of x [L, D]: what the heads mixed [L, H E], and the keys and values of these tokens [G, L, E]."""
        c, g = self.config, self.graph
        heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        qkv = self.project(x, *(f"{prefix}.self_attn.{name}_proj.weight" for name in "qkv"))
        by_head = g.transpose(g.reshape(qkv, VARIES, heads + 2 * kv_heads, dim), 1, 0, 2)
        qk, new_values = g.split(by_head, 0, heads + kv_heads, kv_heads)
        low, high = g.split(qk, 2, dim // 2, dim // 2)
        rotated = g.binary("ADD", g.binary("MUL", qk, cos), g.binary("MUL", g.concatenate(high, low, 2), sin))
        queries, new_keys = g.split(rotated, 0, heads, kv_heads)
        queries = g.reshape(queries, kv_heads, VARIES, dim)  # those that share keys, one after the other
        of_cached, of_new = (g.batch_matmul(queries, k, transposed=True) for k in (keys, new_keys))
        scores = g.concatenate(of_cached, of_new, 2)
        shares = g.softmax(g.binary("ADD", scores, mask))
        mixed = g.reshape(g.batch_matmul(shares, g.concatenate(values, new_values, 1)), heads, VARIES, dim)
        return g.reshape(g.transpose(mixed, 1, 0, 2), VARIES, heads * dim), new_keys, new_values

    def gated(self, x: int, prefix: str) -> int:
        """SwiGLU [L, F] of x [L, D]."""
        g, ffn = self.graph, self.config.intermediate_size
        gate, up = g.split(self.project(x, *(f"{prefix}.mlp.{name}_proj.weight" for name in ("gate", "up"))), 1, ffn, ffn)
        return g.binary("MUL", g.binary("MUL", gate, g.unary("LOGISTIC", gate)), up)

    def norm(self, x: int, name: str) -> int:
        """weight * x / sqrt(mean(x^2) + eps)."""
        g = self.graph
        mean = g.reduce("MEAN", g.binary("MUL", x, x))
        inverse = g.unary("RSQRT", g.binary("ADD", mean, g.constant(np.full(1, self.config.rms_norm_eps, np.float32))))
        return g.binary("MUL", g.binary("MUL", x, inverse), g.constant(_floats(self.tensors[name])))

    def table(self, name: str) -> int:
        """Embedding or head: a matrix that both a lookup and a multiplication read."""
        tensor = self.tensors[name]
        return self.rows_of_int8(tensor) if isinstance(tensor, QuantizedMatrix) else self.graph.constant(_floats(tensor))

    def project(self, x: int, *names: str) -> int:
        """x [L, K] times several matrices, the results side by side; one multiplication for those that follow each other in one scheme."""
        tensors = [self.tensors[name] for name in names]
        runs = [list(run) for _, run in groupby(tensors, lambda tensor: str(getattr(tensor, "scheme", "float")))]
        return reduce(lambda a, b: self.graph.concatenate(a, b, 1), [self.multiply(x, _stacked(run)) for run in runs])

    def multiply(self, x: int, w: Tensor) -> int:
        """x [L, K] times the transposed w [N, K]."""
        if not isinstance(w, QuantizedMatrix):
            return self.graph.fully_connected(x, self.graph.constant(_floats(w)))
        if w.scheme.family == "int8":
            return self.graph.fully_connected(x, self.rows_of_int8(w))
        return self.multiply_int4(x, w)

    def rows_of_int8(self, w: QuantizedMatrix) -> int:
        """The matrix in int8 with a scale per row, rounded to it unless it is so already."""
        kept = w.scheme == Scheme("int8", "row")
        self.weights[str(w.scheme)] = KEPT_INT8 if kept else REQUANTIZED
        if kept:
            return self.graph.per_row(w.codes.view(np.int8), w.scales[:, 0].astype(np.float32))
        weights = w.dequantize()
        scales = np.abs(weights).max(axis=1) / np.float32(127)
        scales[scales == 0] = 1
        return self.graph.per_row(np.rint(weights / scales[:, None]).astype(np.int8), scales)

    def multiply_int4(self, x: int, w: QuantizedMatrix) -> int:
        """The same for 4 bits and groups; UnsupportedModelError for anything else."""
        (_, cols), group = w.shape, w.scheme.group
        if w.scheme.family != "int4" or not isinstance(group, int) or group % 32 or cols % group:
            raise UnsupportedModelError(
                f"a matrix of {cols} columns in the scheme {w.scheme} has no counterpart in LiteRT; it has int8, and int4 with "
                "groups that are a multiple of 32 and divide the columns"
            )
        self.weights[str(w.scheme)] = KEPT_INT4
        codes, scales, offsets = _levels(w)
        product = self.graph.fully_connected(x, self.graph.blockwise_int4(codes, scales))
        if not offsets.any():
            return product
        return self.graph.binary("ADD", product, self.graph.fully_connected(self.sums(x, group), self.graph.constant(offsets)))

    def sums(self, x: int, group: int) -> int:
        """Sums over the groups of columns [L, J] of x [L, K], once for all matrices that it meets."""
        if (x, group) not in self.group_sums:
            groups = self.graph.shape(x)[1] // group
            summed = self.graph.reduce("SUM", self.graph.reshape(x, VARIES, groups, group))
            self.group_sums[x, group] = self.graph.reshape(summed, VARIES, groups)
        return self.group_sums[x, group]


def _floats(tensor: Tensor) -> F32:
    return np.ascontiguousarray(tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor, np.float32)


def _stacked(tensors: list[Tensor]) -> Tensor:
    """Matrices of one scheme as one, the rows of each after those of the one before."""
    first = tensors[0]
    if not isinstance(first, QuantizedMatrix):
        return np.concatenate([_floats(tensor) for tensor in tensors])
    matrices = [tensor for tensor in tensors if isinstance(tensor, QuantizedMatrix)]
    minimums = [matrix.minimums for matrix in matrices if matrix.minimums is not None]
    return QuantizedMatrix(
        first.scheme,
        np.concatenate([matrix.codes for matrix in matrices]),
        np.concatenate([matrix.scales for matrix in matrices]),
        np.concatenate(minimums) if minimums else None,
    )


def _levels(w: QuantizedMatrix) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], F32]:
    """A matrix of 4 bits as XNNPACK has it, packed levels [N, K / 2] and positive scales [N, J], and the offsets [N, J]; see the module."""
    rows, cols = w.shape
    scales = w.scales.astype(np.float32)
    negative, zero = scales < 0, w.scales == 0
    minimums = -scales * w.scheme.zero if w.minimums is None else w.minimums.astype(np.float32)
    codes = w.integer_codes()[0].reshape(rows, scales.shape[1], -1)
    levels = np.where(negative[:, :, None], 7 - codes, codes - 8)
    offsets = minimums + np.where(negative, 7, 8) * scales
    levels[zero] = 0  # the scale there may be any: XNNPACK takes no 0
    packed = pack_codes(Scheme("int4", 32), (levels & 15).reshape(1, rows, cols))
    return packed.view(np.uint8), np.where(zero, np.float16(1), np.abs(w.scales)), offsets.astype(np.float32)
