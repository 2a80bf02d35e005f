"""GGUF -> Checkpoint. Matrices of the types in `ggml_blocks.LOSSLESS` keep exactly their weights; other types are dequantised."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import EdgeLLMError, ModelFileError
from edgellm.formats.architecture import in_model_order
from edgellm.formats.checkpoint import Checkpoint, Tensor
from edgellm.formats.ggml_blocks import LOSSLESS, lossless
from edgellm.formats.gguf_config import architecture_of, hf_config
from edgellm.formats.gguf_header import GGUFHeader, TensorInfo, parse_header
from edgellm.formats.gguf_names import Architecture, hf_row_order, rows_of
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.formats.mapped import drop_pages
from edgellm.formats.matrix import F32, U8, QuantizedMatrix
from edgellm.formats.tensors import LazyTensors, TensorSpec

CHAT_TEMPLATE = "tokenizer.chat_template"
SCALE_SUFFIX = "_scale"
FLOATS = {"F32": "<f4", "F16": "<f2"}
Rows = slice | npt.NDArray[np.intp]


@dataclass(frozen=True)
class Source:
    """Where a tensor of the model is: its own blocks, or some rows of a larger tensor; and where one number lies that multiplies it."""

    info: TensorInfo
    scale: TensorInfo | None = None

    @property
    def spec(self) -> TensorSpec:
        """What `read` makes of it."""
        if self.scale is None and self.info.type_name in LOSSLESS and len(self.info.shape) == 2:
            return TensorSpec(self.info.shape, str(LOSSLESS[self.info.type_name].scheme), self.info.type_name)
        kept = self.scale is None and self.info.type_name == "F16"
        return TensorSpec(self.info.shape, "float16" if kept else "float32", self.info.type_name)

    def read(self, data: mmap.mmap, rows: Rows) -> Tensor:
        """Rows of the tensor. With a scale it is float32, because no scheme's float16 scales hold the products exactly."""
        tensor = decode(self.info, data, rows)
        if self.scale is None:
            return tensor
        weights = tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor.astype(np.float32)
        weights *= np.asarray(decode(self.scale, data))
        return weights


def read_gguf(path: Path) -> Checkpoint:
    """The model in a GGUF file (version 2 or 3) of one of `gguf_names.ARCHITECTURES`, under Hugging Face names. Tensors are read when
    asked for.

    ModelFileError: truncated or corrupt. UnsupportedModelError: a key, tensor or tensor type that is not implemented, by its name.
    """
    data = map_file(path)
    header = parse_header(data, path)
    try:
        architecture = architecture_of(header.metadata)
        factors = {name: _vector(header.tensors[name], data) for name in architecture.rope_factors if name in header.tensors}
        config = hf_config(header.metadata, factors, tied="output.weight" not in header.tensors)
        sources = _sources(header, architecture, config)
        specs = in_model_order(config, {name: source.spec for name, source in sources.items()})
        tokenizer_json = tokenizer_json_from_gguf(header.metadata)
    except EdgeLLMError as error:
        raise type(error)(f"{path}: {error}") from error
    chat_template = header.metadata.get(CHAT_TEMPLATE)
    if not isinstance(chat_template, str | None):
        raise ModelFileError(f"{path}: key {CHAT_TEMPLATE!r} is not a string")
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]} if architecture.neighbours else {}

    def read(name: str, rows: slice) -> Tensor:
        rotated = heads.get(name.split(".")[-2])  # rows for a rope of neighbours
        return sources[name].read(data, rows if rotated is None else hf_row_order(specs[name].shape[0], rotated)[rows])

    return Checkpoint(
        config=config,
        tensors=LazyTensors(specs, read),
        tokenizer_json=tokenizer_json,
        chat_template=chat_template,
        provenance={"source": path.name, "format": "gguf"},
        activations=architecture.activations,
    )


def map_file(path: Path) -> mmap.mmap:
    """The file as read-only memory; ModelFileError if there is none to map."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelFileError(f"{path}: cannot be read: {error}") from error


def decode(info: TensorInfo, data: mmap.mmap, rows: Rows = slice(None)) -> Tensor:
    """Rows of the tensor: a QuantizedMatrix for matrices of a type in LOSSLESS, float16 for F16, float32 for every other type.

    What is no float in the file is a copy, and the file's pages are given back.
    """
    stored = np.frombuffer(data, np.uint8, info.nbytes, info.start)
    if info.type_name in FLOATS:
        return stored.view(FLOATS[info.type_name]).reshape(info.shape)[rows]
    if len(info.shape) == 1:  # whose numbers lie in blocks, not in rows
        return _dequantised(stored, info.type_name)[rows]
    blocks = stored.reshape(info.shape[0], -1)[rows]
    try:
        tensor = lossless(blocks, info.shape[-1], info.type_name) if info.type_name in LOSSLESS else _dequantised(blocks, info.type_name)
    except ModelFileError as error:
        raise ModelFileError(f"tensor {info.name}: {error}") from error
    drop_pages(stored)
    return tensor


def _dequantised(blocks: U8, type_name: str) -> F32:
    """Bytes [..., bytes of a row] -> weights [..., K], as ggml computes them."""
    from gguf import GGMLQuantizationType, quants  # only needed for types that are not kept, and slow to import

    with np.errstate(all="ignore"):  # a corrupt scale may be infinite; that is for the reader of the weights to judge
        weights: Any = quants.dequantize(blocks, GGMLQuantizationType[type_name])
    return np.asarray(weights, np.float32)


def _sources(header: GGUFHeader, architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Source]:
    """Where each tensor lies, by its Hugging Face name. A matrix that is stored together with others is some rows of theirs."""
    infos: dict[str, TensorInfo] = {}
    for info in header.tensors.values():
        if info.name in architecture.rope_factors:
            continue
        names = architecture.hf_names(info.name)
        if len(names) == 1:
            infos[names[0]] = info
            continue
        start = 0
        counts = [rows_of(name, config) for name in names]
        if sum(counts) != info.shape[0]:
            raise ModelFileError(f"tensor {info.name} has shape {info.shape}; the config asks for {sum(counts)} rows, {counts} in turn")
        for name, count in zip(names, counts, strict=True):
            infos[name] = info.rows(start, start + count)
            start += count
    scales = {name: infos.pop(name) for name in [*infos] if name.endswith(SCALE_SUFFIX)}
    for name, scale in scales.items():
        if scale.shape != (1,) or scale.type_name != "F32":
            raise ModelFileError(f"tensor {scale.name} is {scale.type_name} of shape {scale.shape}; a scale is one F32")
        if name.removesuffix(SCALE_SUFFIX) not in infos:
            raise ModelFileError(f"tensor {scale.name} scales nothing: {name.removesuffix(SCALE_SUFFIX)} is missing")
    return {name: Source(info, scales.get(name + SCALE_SUFFIX)) for name, info in infos.items()}


def _vector(info: TensorInfo, data: mmap.mmap) -> F32:
    """The numbers in a vector."""
    if len(info.shape) != 1:
        raise ModelFileError(f"tensor {info.name} has shape {info.shape}; it must be a vector")
    return np.asarray(decode(info, data), np.float32)
