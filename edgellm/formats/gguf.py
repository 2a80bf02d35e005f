"""GGUF -> Checkpoint. Q4_0, Q4_1 and Q8_0 matrices keep exactly their weights; other types are dequantised."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.errors import EdgeLLMError, ModelFileError
from edgellm.formats.architecture import in_model_order
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.gguf_header import TensorInfo, parse_header
from edgellm.formats.gguf_llama import hf_config, hf_name, hf_row_order
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.formats.matrix import INT4, INT4_MIN, INT8, U8, QuantizedMatrix, Scheme
from edgellm.formats.tensors import LazyTensors, TensorSpec

LOSSLESS: dict[str, Scheme] = {"Q4_0": INT4, "Q4_1": INT4_MIN, "Q8_0": INT8}
CHAT_TEMPLATE = "tokenizer.chat_template"


def read_gguf(path: Path) -> Checkpoint:
    """The model in a GGUF file (version 2 or 3) of the Llama architecture, under Hugging Face names. Tensors are read when asked for.

    ModelFileError: truncated or corrupt. UnsupportedModelError: a key, tensor or tensor type that is not implemented, by its name.
    """
    data = map_file(path)
    header = parse_header(data, path)
    try:
        config = hf_config(header.metadata, tied="output.weight" not in header.tensors)
        infos = {hf_name(info.name): info for info in header.tensors.values()}
        specs = in_model_order(config, {name: spec_of(info) for name, info in infos.items()})
        tokenizer_json = tokenizer_json_from_gguf(header.metadata)
    except EdgeLLMError as error:
        raise type(error)(f"{path}: {error}") from error
    chat_template = header.metadata.get(CHAT_TEMPLATE)
    if not isinstance(chat_template, str | None):
        raise ModelFileError(f"{path}: key {CHAT_TEMPLATE!r} is not a string")
    return Checkpoint(
        config=config,
        tensors=LazyTensors(specs, lambda name: _in_hf_rows(name, decode(infos[name], data), config)),
        tokenizer_json=tokenizer_json,
        chat_template=chat_template,
        provenance={"source": path.name, "format": "gguf"},
    )


def map_file(path: Path) -> mmap.mmap:
    """The file as read-only memory; ModelFileError if there is none to map."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelFileError(f"{path}: cannot be read: {error}") from error


def spec_of(info: TensorInfo) -> TensorSpec:
    """What `decode` makes of a tensor."""
    if info.type_name in LOSSLESS and len(info.shape) == 2:
        return TensorSpec(info.shape, str(LOSSLESS[info.type_name]), info.type_name)
    return TensorSpec(info.shape, "float16" if info.type_name == "F16" else "float32", info.type_name)


def decode(info: TensorInfo, data: mmap.mmap) -> Tensor:
    """The tensor: a QuantizedMatrix for matrices of Q4_0, Q4_1 and Q8_0, float16 for F16, float32 for every other type."""
    raw = np.frombuffer(data, np.uint8, info.nbytes, info.start)
    if info.type_name in LOSSLESS and len(info.shape) == 2:
        return _lossless(raw.reshape(info.shape[0], info.shape[1] // 32, -1), LOSSLESS[info.type_name])
    if info.type_name in ("F32", "F16"):
        return raw.view("<f4" if info.type_name == "F32" else "<f2").reshape(info.shape)
    from gguf import GGMLQuantizationType, quants  # only needed for types that are not kept, and slow to import

    with np.errstate(all="ignore"):  # a corrupt scale may be infinite; that is for the reader of the weights to judge
        weights: Any = quants.dequantize(raw, GGMLQuantizationType[info.type_name])
    return np.asarray(weights, np.float32).reshape(info.shape)


def _lossless(blocks: U8, scheme: Scheme) -> QuantizedMatrix:
    """ggml blocks [N, J, bytes] -> the same codes, scales and minimums, apart.

    A block is a float16 scale, a float16 minimum if the scheme has one, then the codes: int8 in order; int4 with weight i of the
    group in the low nibble of byte i and weight i + 16 in the high one.
    """
    rows = blocks.shape[0]
    scales = blocks[:, :, 0:2].copy().view("<f2")[:, :, 0]
    minimums = blocks[:, :, 2:4].copy().view("<f2")[:, :, 0] if scheme.has_min else None
    codes = blocks[:, :, 4 if scheme.has_min else 2 :]
    if scheme is INT8:
        return QuantizedMatrix(scheme, codes.reshape(rows, -1).view(np.int8), scales)
    even, odd = codes[:, :, 0::2], codes[:, :, 1::2]
    neighbours = np.concatenate([(even & 15) | (odd << 4), (even >> 4) | (odd & 0xF0)], axis=-1)
    return QuantizedMatrix(scheme, neighbours.reshape(rows, -1), scales, minimums)


def _in_hf_rows(name: str, tensor: Tensor, config: dict[str, Any]) -> Tensor:
    """The tensor with the rows of q and k projections in Hugging Face's order."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    order = hf_row_order(tensor.shape[0], heads)
    return tensor.take_rows(order) if isinstance(tensor, QuantizedMatrix) else tensor[order]
