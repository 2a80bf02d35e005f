"""How Hugging Face stores the tensors of each family, and how a checkpoint has them.

phi3:        qkv_proj is q_proj, k_proj and v_proj, one below the other; gate_up_proj is gate_proj above up_proj.
gemma3_text: a norm's weight is what it multiplies with, less 1.
bitnet:      a packed matrix [N, K] is uint8 [N / 4, K], row r + i N / 4 in bits 2i and 2i + 1 of row r, as trit + 1; `weight_scale`, one
             number, is what the trits are multiplied with (linear_class "autobitlinear", quantization_mode "offline"). That is the scheme
             ternary-tensor, where float16 can hold the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import ModelFileError, UnsupportedModelError
from edgellm.formats.architecture import head_shape
from edgellm.formats.checkpoint import Tensor
from edgellm.formats.mapped import drop_pages
from edgellm.formats.matrix import BLOCK, QuantizedMatrix, Scheme, pack_codes
from edgellm.formats.safetensors_file import StoredTensor
from edgellm.formats.tensors import TensorSpec

FORMS = {"F32": "float32", "F16": "float16", "BF16": "float32"}
PACKED = Scheme("ternary", "tensor")
PACKED_ROWS = 4
WHOLE = slice(None)
Read = Callable[[str, slice], npt.NDArray[np.generic]]
"""Rows of a stored tensor by its name: float32, float16, or uint8 where it is packed. A number without dimensions is a vector of one."""


@dataclass(frozen=True)
class Source:
    """Where a checkpoint's tensor comes from: a stored one, maybe from this row on, added to maybe 1, maybe packed trits."""

    stored: str
    spec: TensorSpec
    first_row: int = 0
    plus_one: bool = False
    scale: str | None = None

    def read(self, read: Read, rows: slice) -> Tensor:
        """Rows of the tensor. ModelFileError or UnsupportedModelError: packed trits that are none, or a scale that can't be kept."""
        if self.scale is not None:
            return _unpacked(self.stored, read(self.stored, WHOLE), rows, self.scale, read(self.scale, WHOLE))
        tensor = read(self.stored, slice(self.first_row + rows.start, self.first_row + rows.stop))
        return np.float32(1) + tensor.astype(np.float32) if self.plus_one else tensor


def sources(config: Mapping[str, Any], stored: Mapping[str, StoredTensor]) -> dict[str, Source]:
    """Where each tensor of a checkpoint comes from, in the order of the files.

    UnsupportedModelError: a type that is not read. ModelFileError: a fused tensor of another shape, a packed one without its scale.
    """
    found: dict[str, Source] = {}
    for name, tensor in stored.items():
        for made, source in _made_of(config, name, tensor, stored):
            if made in found:
                raise ModelFileError(f"tensor {made} is stored twice: as {found[made].stored} and as {name}")
            found[made] = source
    return found


def _made_of(
    config: Mapping[str, Any], name: str, tensor: StoredTensor, stored: Mapping[str, StoredTensor]
) -> Iterator[tuple[str, Source]]:
    """The checkpoint's tensors that one stored tensor holds."""
    if config.get("model_type") == "bitnet" and config.get("quantization_config"):
        if name.endswith("_proj.weight_scale") and stored.get(name.removesuffix("_scale"), tensor).dtype == "U8":
            return  # read with its matrix
        if tensor.dtype == "U8" and name.endswith("_proj.weight"):
            yield name, _packed(name, tensor, stored)
            return
    if tensor.dtype not in FORMS:
        raise UnsupportedModelError(f"tensor {name} is of type {tensor.dtype}, which is not read; read are: {', '.join(FORMS)}")
    form = FORMS[tensor.dtype]
    if config.get("model_type") == "phi3" and (parts := _fused(config, name)):
        start = 0
        if len(tensor.shape) != 2 or tensor.shape[0] != sum(parts.values()):
            raise ModelFileError(f"tensor {name} has shape {tensor.shape}; the config asks for {sum(parts.values())} rows")
        for part, rows in parts.items():
            yield part, Source(name, TensorSpec((rows, tensor.shape[1]), form, tensor.dtype), first_row=start)
            start += rows
        return
    plus_one = config.get("model_type") == "gemma3_text" and name.endswith("norm.weight")
    yield name, Source(name, TensorSpec(tensor.shape, "float32" if plus_one else form, tensor.dtype), plus_one=plus_one)


def _fused(config: Mapping[str, Any], name: str) -> dict[str, int]:
    """The tensors that a fused one holds, and how many rows of it each has; none if it is not fused."""
    prefix, _, part = name.removesuffix(".weight").rpartition(".")
    if part == "qkv_proj":
        heads, kv_heads, head_dim = head_shape(config)
        return {f"{prefix}.{made}_proj.weight": rows * head_dim for made, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads))}
    if part == "gate_up_proj" and isinstance(config.get("intermediate_size"), int):
        return {f"{prefix}.{made}_proj.weight": config["intermediate_size"] for made in ("gate", "up")}
    return {}


def _packed(name: str, tensor: StoredTensor, stored: Mapping[str, StoredTensor]) -> Source:
    scale = f"{name}_scale"
    if scale not in stored:
        raise ModelFileError(f"tensor {scale} is missing; without it the packed {name} has no size")
    if stored[scale].dtype not in FORMS or stored[scale].shape not in ((), (1,)):
        raise ModelFileError(f"tensor {scale} is {stored[scale].dtype} {stored[scale].shape}; one float is needed")
    if len(tensor.shape) != 2 or tensor.shape[1] % BLOCK:
        raise ModelFileError(f"tensor {name} has shape {tensor.shape}; packed are matrices of a multiple of {BLOCK} columns")
    return Source(name, TensorSpec((PACKED_ROWS * tensor.shape[0], tensor.shape[1]), str(PACKED), "U8"), scale=scale)


def _unpacked(name: str, packed: npt.NDArray[np.generic], rows: slice, scale_name: str, scale: npt.NDArray[np.generic]) -> QuantizedMatrix:
    places, packed_rows = np.divmod(np.arange(rows.start, rows.stop), len(packed))
    shifts = (8 // PACKED_ROWS * places).astype(np.uint8)
    codes = packed.astype(np.uint8, copy=False)[packed_rows] >> shifts[:, None] & np.uint8(3)
    drop_pages(packed)
    if (codes == 3).any():
        raise ModelFileError(f"tensor {name} holds a code that is no trit; the file is corrupt, or not packed as BitNet's are")
    exact = float(scale.reshape(()))
    with np.errstate(over="ignore"):
        kept = np.full((1, 1), exact, np.float16)
    if float(kept[0, 0]) != exact:
        raise UnsupportedModelError(f"tensor {scale_name} = {exact:g} can't be kept exactly: ternary scales are float16")
    return QuantizedMatrix(PACKED, pack_codes(PACKED, codes[None]), kept)
