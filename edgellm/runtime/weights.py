"""A checkpoint's tensors, packed for the kernels. Every tensor is used exactly once, or the model is refused."""

from __future__ import annotations

import mmap

import numpy as np

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import QuantizedMatrix
from edgellm.model.config import LlamaConfig
from edgellm.model.decoder import F32, DecoderWeights, LayerWeights
from edgellm.ops.interface import PackedMatrix, packed_bytes
from edgellm.ops.native import pack
from edgellm.runtime.workspace import Arena, aligned


def expected_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its Hugging Face name."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    wide, narrow = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (wide, hidden),
            f"{layer}.self_attn.k_proj.weight": (narrow, hidden),
            f"{layer}.self_attn.v_proj.weight": (narrow, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, wide),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (ffn, hidden),
            f"{layer}.mlp.up_proj.weight": (ffn, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, ffn),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


class _Packer:
    """Packs matrices into one arena that was sized for all of them."""

    def __init__(self, checkpoint: Checkpoint, config: LlamaConfig) -> None:
        self.tensors = checkpoint.tensors
        self.shapes = expected_shapes(config)
        _check_names(set(self.shapes), set(self.tensors))
        total = 0
        for name, shape in self.shapes.items():
            tensor = self.tensors[name]
            if tuple(tensor.shape) != shape:
                raise ModelFileError(f"tensor {name} has shape {tuple(tensor.shape)}; the config asks for {shape}")
            if isinstance(tensor, QuantizedMatrix):
                codes, scales = packed_bytes(tensor.scheme, *tensor.shape)
                total += aligned(codes) + aligned(scales)
        self.arena = Arena(total, huge_pages=True)

    def matrix(self, name: str) -> PackedMatrix:
        tensor = self.tensors[name]
        if not isinstance(tensor, QuantizedMatrix):
            raise UnsupportedModelError(
                f"tensor {name} is {tensor.dtype}, and matrices must be quantized: `edgellm convert SRC --scheme int8`"
            )
        codes, scales = packed_bytes(tensor.scheme, *tensor.shape)
        packed = pack(tensor, self.arena.empty((codes,), np.uint8), self.arena.empty((scales // 2,), np.float16))
        for part in (tensor.codes, tensor.scales, tensor.minimums):
            _drop_pages(part)
        return packed

    def vector(self, name: str) -> F32:
        tensor = self.tensors[name]
        if isinstance(tensor, QuantizedMatrix):
            raise UnsupportedModelError(f"tensor {name} is {tensor.scheme}; vectors must be floats")
        return np.array(tensor, np.float32)


def load_weights(checkpoint: Checkpoint, config: LlamaConfig) -> tuple[DecoderWeights, int]:
    """The packed weights, and the bytes of the packed matrices."""
    packer = _Packer(checkpoint, config)
    embedding = packer.matrix("model.embed_tokens.weight")
    layers = []
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        layers.append(
            LayerWeights(
                input_layernorm=packer.vector(f"{layer}.input_layernorm.weight"),
                q_proj=packer.matrix(f"{layer}.self_attn.q_proj.weight"),
                k_proj=packer.matrix(f"{layer}.self_attn.k_proj.weight"),
                v_proj=packer.matrix(f"{layer}.self_attn.v_proj.weight"),
                o_proj=packer.matrix(f"{layer}.self_attn.o_proj.weight"),
                post_attention_layernorm=packer.vector(f"{layer}.post_attention_layernorm.weight"),
                gate_proj=packer.matrix(f"{layer}.mlp.gate_proj.weight"),
                up_proj=packer.matrix(f"{layer}.mlp.up_proj.weight"),
                down_proj=packer.matrix(f"{layer}.mlp.down_proj.weight"),
            )
        )
    norm = packer.vector("model.norm.weight")
    head = embedding if config.tie_word_embeddings else packer.matrix("lm_head.weight")
    return DecoderWeights(embedding, tuple(layers), norm, head), packer.arena.nbytes


def _check_names(expected: set[str], found: set[str]) -> None:
    if missing := sorted(expected - found):
        raise ModelFileError(f"the model lacks {len(missing)} tensors that its config asks for; the first is {missing[0]}")
    if extra := sorted(found - expected):
        raise UnsupportedModelError(f"the model has {len(extra)} tensors that its config has no use for; the first is {extra[0]}")


def _drop_pages(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None) -> None:
    """Give a mapped file's pages back once they have been packed; arrays that map no file are left alone."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
