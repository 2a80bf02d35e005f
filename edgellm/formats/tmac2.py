"""`NAME.tmac2.bin`, our model file: a safetensors file that any safetensors tool can list.

A tensor NAME is stored as NAME (F32 or F16), or, quantized, as NAME.codes (U8 or I8), NAME.scales (F16) and maybe NAME.minimums (F16),
row-major, in model order, each starting on a 64-byte boundary. Safetensors allows no holes, so the gap between two tensors is itself a
tensor, of zero bytes, named `padding.N`; the header is padded with spaces.

`__metadata__` holds strings:
    format, format_version   "edgellm.tmac2", "1"
    header_checksum          of the header's bytes, with this value's digits zero
    checksums                JSON: stored tensor -> checksum of its bytes
    schemes                  JSON: tensor -> "float32", "float16" or a quantization scheme
    config, provenance       JSON
    activations              one of `checkpoint.ACTIVATIONS`; absent from files that were written before there was a choice
    tokenizer.json, chat_template    as text; chat_template may be absent
Checksums are BLAKE2b, 16 bytes, in hexadecimal. The same checkpoint gives the same bytes: no time, no path, no machine is recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, chain, count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgellm.errors import EdgeLLMError, ModelFileError, UnsupportedModelError
from edgellm.formats.architecture import in_model_order
from edgellm.formats.atomic import replacing
from edgellm.formats.checkpoint import ACTIVATIONS, Checkpoint, Tensor
from edgellm.formats.mapped import drop_pages
from edgellm.formats.matrix import BLOCK, QuantizedMatrix, Scheme
from edgellm.formats.safetensors_file import DTYPES, SafetensorsFile, open_safetensors
from edgellm.formats.tensors import FLOAT_BYTES, LazyTensors, TensorSpec, take_rows

FORMAT, FORMAT_VERSION = "edgellm.tmac2", "1"
ALIGNMENT = 64
PADDING = "padding."
NO_CHECKSUM = "0" * 32
FLOAT_DTYPES = {"float32": "F32", "float16": "F16"}


class _Place:
    """Where a part goes in the file that is written. Its rows come in order, some at a time."""

    def __init__(self, part: _Part, start: int) -> None:
        self.part, self._next, self._hash = part, start, hashlib.blake2b(digest_size=16)

    def write(self, file: BinaryIO, array: npt.NDArray[np.generic], rows: slice) -> None:
        """The array that holds the part's next rows. ModelFileError: it does not."""
        expected = (len(range(self.part.shape[0])[rows]), *self.part.shape[1:])
        if array.shape != expected or array.dtype != np.dtype(DTYPES[self.part.dtype]):
            raise ModelFileError(f"tensor {self.part.name} came as {array.dtype} {array.shape}; announced was {self.part.dtype} {expected}")
        data = np.ascontiguousarray(array).data
        file.seek(self._next)
        self._next += file.write(data)
        self._hash.update(data)

    @property
    def checksum(self) -> str:
        """Of what was written."""
        return self._hash.hexdigest()


@dataclass(frozen=True)
class _Part:
    """One stored tensor: its name, its safetensors type, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(DTYPES[self.dtype]).itemsize


def write_tmac2(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, some rows of a tensor in memory at a time; `path` is replaced only once the whole file is on the disk.

    The provenance is what it is once the last tensor was read: values that only then are known may be set in it until then, if they are
    written no longer than those that they replace.

    FetchError: the disk is full or the folder not writable. Whatever reading a tensor raises, with `path` left as it was.
    """
    tensors = LazyTensors.over(checkpoint.tensors)
    parts = {name: _parts(name, spec) for name, spec in tensors.specs.items()}
    stored = list(_padded(parts.values()))
    room = len(_header(checkpoint, tensors, stored, dict.fromkeys((part.name for part in stored), NO_CHECKSUM)))
    starts = accumulate((part.nbytes for part in stored), initial=room)  # the header's checksums come once the data is known
    places = {part.name: _Place(part, start) for part, start in zip(stored, starts, strict=False)}
    with replacing(path) as file:
        for name, spec in tensors.specs.items():
            for rows in spec.blocks():
                tensor = tensors.rows(name, rows)
                for part, array in zip(parts[name], _arrays(tensor), strict=True):
                    places[part.name].write(file, array, rows)
                drop_pages(tensor)
        for place in places.values():
            if place.part.name.startswith(PADDING):
                place.write(file, np.zeros(place.part.shape, np.uint8), slice(None))
        file.seek(0)
        file.write(_header(checkpoint, tensors, stored, {name: place.checksum for name, place in places.items()}, room))


def read_tmac2(path: Path) -> Checkpoint:
    """The model in the file; tensors are views of the mapped file, read when touched.

    The header, which holds all but the tensors, is compared with its checksum; the tensors' checksums are only looked at by `verify`.
    ModelFileError: truncated or corrupt. UnsupportedModelError: a format version or scheme that is not known.
    """
    file = open_safetensors(path)
    _require_format(file)
    _require_header(file)
    config, schemes = _json_object(file, "config"), _json_object(file, "schemes")
    try:
        specs = in_model_order(config, {name: _spec(file, name, form) for name, form in schemes.items()})
        _require_layout(file, specs)
    except EdgeLLMError as error:
        raise type(error)(f"{path}: {error}") from error
    data = replace(file, header=b"", metadata={})  # the tensors outlive the header, which holds the tokenizer twice
    return Checkpoint(
        config=config,
        tensors=LazyTensors(specs, lambda name, rows: take_rows(_tensor(data, name, specs[name]), rows)),
        tokenizer_json=_text(file, "tokenizer.json"),
        chat_template=file.metadata.get("chat_template"),
        activations=_activations(file),
        provenance=_json_object(file, "provenance"),
    )


def verify(path: Path) -> list[str]:
    """What is wrong with the tensors' bytes, one line per problem; none if they are as they were written. Raises what `read_tmac2` does."""
    read_tmac2(path)
    file = open_safetensors(path)
    checksums = _json_object(file, "checksums")
    return [f"tensor {name} does not match its checksum" for name in file.tensors if _checksum(file.view(name).data) != checksums.get(name)]


def _parts(name: str, spec: TensorSpec) -> list[_Part]:
    """How a tensor is stored."""
    scheme = spec.scheme
    if scheme is None:
        return [_Part(name, FLOAT_DTYPES[spec.form], spec.shape)]
    rows, cols = spec.shape
    groups = scheme.scales_shape(rows, cols)
    codes = _Part(f"{name}.codes", "I8" if scheme.family == "int8" else "U8", (rows, scheme.code_bytes(cols)))
    return [codes, *(_Part(f"{name}.{kind}", "F16", groups) for kind in ("scales", "minimums")[: 1 + scheme.has_min])]


def _padded(parts: Iterable[list[_Part]]) -> Iterator[_Part]:
    """The parts in a row, with a padding tensor wherever the next one would not start on a boundary."""
    number = count()
    end = 0
    for part in chain.from_iterable(parts):
        if end % ALIGNMENT:
            yield _Part(f"{PADDING}{next(number)}", "U8", (-end % ALIGNMENT,))
            end += -end % ALIGNMENT
        yield part
        end += part.nbytes


def _arrays(tensor: Tensor) -> list[npt.NDArray[np.generic]]:
    """The arrays of a tensor's parts."""
    if not isinstance(tensor, QuantizedMatrix):
        return [tensor]
    return [tensor.codes, tensor.scales, *([] if tensor.minimums is None else [tensor.minimums])]


def _header(checkpoint: Checkpoint, tensors: LazyTensors, stored: list[_Part], checksums: dict[str, str], room: int = 0) -> bytes:
    """The file's first bytes: the length of the header and the header, padded so that the data starts on a boundary, or after `room`."""
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "header_checksum": NO_CHECKSUM,
        "checksums": _json(checksums),
        "schemes": _json({name: spec.form for name, spec in tensors.specs.items()}),
        "config": _json(checkpoint.config),
        "provenance": _json(checkpoint.provenance),
        "activations": checkpoint.activations,
        "tokenizer.json": checkpoint.tokenizer_json,
    }
    if checkpoint.chat_template is not None:
        metadata["chat_template"] = checkpoint.chat_template
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for part in stored:
        entries[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [end, end + part.nbytes]}
        end += part.nbytes
    try:
        text = _json(entries).encode()
    except UnicodeEncodeError as error:
        raise ModelFileError(f"the config, tokenizer or chat template is not Unicode text: {error}") from error
    nbytes = room or -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT
    text = text.ljust(nbytes - 8)
    if 8 + len(text) != nbytes:
        raise ValueError(f"the header has outgrown its {nbytes} bytes while tensors were read")
    text = text.replace(NO_CHECKSUM.encode(), _checksum(text).encode(), 1)
    return len(text).to_bytes(8, "little") + text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _require_format(file: SafetensorsFile) -> None:
    if file.metadata.get("format") != FORMAT:
        raise ModelFileError(f"{file.path}: a safetensors file, but not a .tmac2.bin: its metadata does not say format = {FORMAT}")
    if (version := file.metadata.get("format_version")) != FORMAT_VERSION:
        raise UnsupportedModelError(f"{file.path}: format version {version!r} is not read; this version reads {FORMAT_VERSION!r}")


def _require_header(file: SafetensorsFile) -> None:
    recorded = _text(file, "header_checksum")
    if _checksum(file.header.replace(recorded.encode(), NO_CHECKSUM.encode(), 1)) != recorded:
        raise ModelFileError(f"{file.path}: the header does not match its checksum; the file is corrupt")


def _text(file: SafetensorsFile, key: str) -> str:
    if key not in file.metadata:
        raise ModelFileError(f"{file.path}: metadata key {key!r} is missing")
    return file.metadata[key]


def _activations(file: SafetensorsFile) -> str:
    found = file.metadata.get("activations", ACTIVATIONS[0])
    if found not in ACTIVATIONS:
        raise UnsupportedModelError(f"{file.path}: activations {found!r:.40} are not implemented; implemented: {', '.join(ACTIVATIONS)}")
    return found


def _json_object(file: SafetensorsFile, key: str) -> dict[str, Any]:
    try:
        value = json.loads(_text(file, key))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{file.path}: metadata key {key!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{file.path}: metadata key {key!r} is not a JSON object")
    return value


def _spec(file: SafetensorsFile, name: str, form: Any) -> TensorSpec:
    """The spec of a tensor, its shape taken from its first stored part."""
    scheme = None if form in tuple(FLOAT_BYTES) else Scheme.parse(str(form))
    first = file.tensors.get(name if scheme is None else f"{name}.codes")
    if first is None or (scheme is not None and len(first.shape) != 2):
        raise ModelFileError(f"tensor {name} ({form}) is missing or misshapen")
    shape = first.shape if scheme is None else (first.shape[0], scheme.cols(first.shape[1]))
    if scheme is not None and (shape[1] % BLOCK or scheme.code_bytes(shape[1]) != first.shape[1]):
        raise ModelFileError(f"tensor {name} ({form}) has rows of {first.shape[1]} bytes of codes, which is no multiple of {BLOCK} columns")
    return TensorSpec(shape, form, form)


def _require_layout(file: SafetensorsFile, specs: dict[str, TensorSpec]) -> None:
    """Every part is stored, with the type, shape and alignment that the tensor's scheme asks for, and nothing else is."""
    expected = {part.name: part for name, spec in specs.items() for part in _parts(name, spec)}
    for name, part in expected.items():
        if name not in file.tensors:
            raise ModelFileError(f"tensor {name} is missing")
        stored = file.tensors[name]
        if (stored.dtype, stored.shape) != (part.dtype, part.shape):
            raise ModelFileError(f"tensor {name} is {stored.dtype} {stored.shape}; its scheme asks for {part.dtype} {part.shape}")
        if stored.start % ALIGNMENT:
            raise ModelFileError(f"tensor {name} starts at byte {stored.start}, not on a multiple of {ALIGNMENT}")
    for name, stored in file.tensors.items():
        is_padding = name.startswith(PADDING) and stored.dtype == "U8" and len(stored.shape) == 1
        if name not in expected and not is_padding:
            raise ModelFileError(f"tensor {name} is part of no tensor of the model")


def _tensor(file: SafetensorsFile, name: str, spec: TensorSpec) -> Tensor:
    if spec.scheme is None:
        return file.view(name)
    parts: list[Any] = [file.view(part.name) for part in _parts(name, spec)]
    return QuantizedMatrix(spec.scheme, *parts)
