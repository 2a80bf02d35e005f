"""A checkpoint's tensors, packed for the kernels, or dense. The readers have made sure that they are the config's, by name and shape."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.mapped import drop_pages
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.formats.tensors import LazyTensors
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import F32, DecoderWeights, LayerWeights, Matrix
from edgellm.ops.dense import DenseMatrix
from edgellm.ops.interface import Layout, PackedMatrix, packed_bytes
from edgellm.ops.native import pack
from edgellm.runtime.tuning import MatrixKind, kind_of
from edgellm.runtime.workspace import Arena, aligned


class _Packer:
    """Puts packed matrices and vectors into one arena that was sized for all of them."""

    def __init__(self, tensors: LazyTensors, layout_of: Callable[[MatrixKind], Layout]) -> None:
        self.tensors, self.layout_of = tensors, layout_of
        parts = (packed_bytes(spec.scheme, *spec.shape) if spec.scheme else (4 * prod(spec.shape),) for spec in tensors.specs.values())
        self.arena = Arena(sum(aligned(nbytes) for part in parts for nbytes in part), huge_pages=True)

    def matrix(self, name: str) -> PackedMatrix:
        tensor = self.tensors[name]
        if not isinstance(tensor, QuantizedMatrix):
            raise UnsupportedModelError(
                f"tensor {name} is {tensor.dtype}, and matrices must be quantized: `edgellm quantize SRC --scheme int8`"
            )
        _require_finite(name, tensor.scales, *([] if tensor.minimums is None else [tensor.minimums]))
        codes, scales = packed_bytes(tensor.scheme, *tensor.shape)
        room = self.arena.empty((codes,), np.uint8), self.arena.empty((scales // 2,), np.float16)
        packed = pack(tensor, *room, self.layout_of(kind_of(tensor.shape, tensor.scheme)))
        drop_pages(tensor)
        return packed

    def vector(self, name: str) -> F32:
        tensor = self.tensors[name]
        if isinstance(tensor, QuantizedMatrix):
            raise UnsupportedModelError(f"tensor {name} is {tensor.scheme}; vectors must be floats")
        _require_finite(name, tensor)
        vector: F32 = self.arena.empty(tensor.shape, np.float32)
        vector[:] = tensor
        return vector


def load_weights(
    checkpoint: Checkpoint, config: ModelConfig, layout_of: Callable[[MatrixKind], Layout] = lambda _: "multiply-add"
) -> tuple[DecoderWeights[PackedMatrix], Arena]:
    """The packed weights, each matrix in the layout that its kind is to have, and the arena that they lie in."""
    packer = _Packer(LazyTensors.over(checkpoint.tensors), layout_of)
    return _decoder_weights(config, packer.matrix, packer.vector), packer.arena


def load_dense(checkpoint: Checkpoint, config: ModelConfig) -> DecoderWeights[DenseMatrix]:
    """The weights as float32, for `ops.dense`: eight times the memory of 4-bit codes, and nothing of it in the file's mapping."""
    tensors = checkpoint.tensors
    return _decoder_weights(config, lambda name: dense_matrix(tensors[name]), lambda name: np.array(tensors[name], np.float32))


def dense_matrix(tensor: Tensor) -> DenseMatrix:
    """A matrix in whatever form as float32."""
    return DenseMatrix(tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor.astype(np.float32))


def _decoder_weights(config: ModelConfig, matrix: Callable[[str], Matrix], vector: Callable[[str], F32]) -> DecoderWeights[Matrix]:
    embedding = matrix("model.embed_tokens.weight")
    layers = tuple(layer_weights(config, i, matrix, vector) for i in range(config.num_hidden_layers))
    norm = vector("model.norm.weight")
    return DecoderWeights(embedding, layers, norm, embedding if config.tie_word_embeddings else matrix("lm_head.weight"))


def layer_weights(config: ModelConfig, index: int, matrix: Callable[[str], Matrix], vector: Callable[[str], F32]) -> LayerWeights[Matrix]:
    """A decoder layer's weights, of whatever type: `matrix` and `vector` give a tensor by its name."""
    layer = f"model.layers.{index}"

    def vector_if(there: bool, name: str) -> F32 | None:
        return vector(f"{layer}.{name}") if there else None

    def bias(part: str) -> F32:
        return vector(f"{layer}.self_attn.{part}_proj.bias")

    before_ffn = "pre_feedforward_layernorm" if config.post_norms else "post_attention_layernorm"
    return LayerWeights(
        input_layernorm=vector(f"{layer}.input_layernorm.weight"),
        q_proj=matrix(f"{layer}.self_attn.q_proj.weight"),
        k_proj=matrix(f"{layer}.self_attn.k_proj.weight"),
        v_proj=matrix(f"{layer}.self_attn.v_proj.weight"),
        biases=(bias("q"), bias("k"), bias("v")) if config.attention_bias else None,
        q_norm=vector_if(config.qk_norm, "self_attn.q_norm.weight"),
        k_norm=vector_if(config.qk_norm, "self_attn.k_norm.weight"),
        attn_sub_norm=vector_if(config.sub_norms, "self_attn.attn_sub_norm.weight"),
        o_proj=matrix(f"{layer}.self_attn.o_proj.weight"),
        post_attention_layernorm=vector_if(config.post_norms, "post_attention_layernorm.weight"),
        pre_feedforward_layernorm=vector(f"{layer}.{before_ffn}.weight"),
        gate_proj=matrix(f"{layer}.mlp.gate_proj.weight"),
        up_proj=matrix(f"{layer}.mlp.up_proj.weight"),
        ffn_sub_norm=vector_if(config.sub_norms, "mlp.ffn_sub_norm.weight"),
        down_proj=matrix(f"{layer}.mlp.down_proj.weight"),
        post_feedforward_layernorm=vector_if(config.post_norms, "post_feedforward_layernorm.weight"),
    )


def _require_finite(name: str, *arrays: np.ndarray[Any, Any]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise ModelFileError(f"tensor {name} holds weights that are NaN or infinite; get the model anew, or quantize it from its source")
