"""A Hugging Face folder (config.json, safetensors, tokenizer.json) -> Checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import EdgeLLMError, ModelFileError
from edgellm.formats.architecture import in_model_order
from edgellm.formats.checkpoint import ACTIVATIONS, Checkpoint
from edgellm.formats.hf_tensors import Source, sources
from edgellm.formats.mapped import drop_pages
from edgellm.formats.paths import exists
from edgellm.formats.safetensors_file import SafetensorsFile, open_safetensors
from edgellm.formats.tensors import LazyTensors, row_blocks

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
PATTERNS = (CONFIG, GENERATION_CONFIG, "model*.safetensors", INDEX, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE)
"""The files that are read; all that a fetch needs to bring."""

DERIVED = ".self_attn.rotary_emb.inv_freq"
"""Old checkpoints store the rotary frequencies; they follow from the config, so they are left out."""


def read_hf(folder: Path) -> Checkpoint:
    """The model in a folder as the Hugging Face hub holds it, F32, F16 or BF16 in one file or in shards. Tensors are read when asked for.

    ModelFileError: a file missing, truncated or corrupt. UnsupportedModelError: an architecture, tensor or type that is not implemented.
    """
    config = _config(folder)
    files: dict[str, SafetensorsFile] = {}
    for file in _weight_files(folder):
        for name in file.tensors:
            if name in files:
                raise ModelFileError(f"{folder}: tensor {name} is in {files[name].path.name} and in {file.path.name}")
            if not name.endswith(DERIVED):
                files[name] = file
    stored = {name: file.tensors[name] for name, file in files.items()}

    def read(name: str, rows: slice) -> npt.NDArray[np.generic]:
        return _array(name, files[name], rows)

    try:
        made = sources(config, stored)
        specs = in_model_order(config, {name: source.spec for name, source in made.items()})
    except EdgeLLMError as error:
        raise type(error)(f"{folder}: {error}") from error
    return Checkpoint(
        config=config,
        tensors=LazyTensors(specs, lambda name, rows: made[name].read(read, rows)),
        tokenizer_json=_read_text(folder / TOKENIZER),
        chat_template=_chat_template(folder),
        activations=_activations(made),
        provenance={"source": folder.resolve().name, "format": "huggingface"},
    )


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make up the model, by name."""
    return sorted({file for pattern in PATTERNS for file in folder.glob(pattern)})


def _config(folder: Path) -> dict[str, Any]:
    """config.json, with generation_config.json's eos_token_id, where there is one: it lists all tokens that end a turn."""
    config = _read_json(folder / CONFIG)
    if exists(folder / GENERATION_CONFIG):
        ends = _read_json(folder / GENERATION_CONFIG).get("eos_token_id")
        return config if ends is None else config | {"eos_token_id": ends}
    return config


def _weight_files(folder: Path) -> list[SafetensorsFile]:
    if exists(folder / WEIGHTS) or not exists(folder / INDEX):
        return [open_safetensors(folder / WEIGHTS)]
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{folder / INDEX}: has no weight_map")
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or shard == "..":
            raise ModelFileError(f"{folder / INDEX}: the weight_map names {shard!r}, which is not a file of this folder")
    return [open_safetensors(folder / shard) for shard in dict.fromkeys(weight_map.values())]


def _activations(made: Mapping[str, Source]) -> str:
    """Packed trits were trained with one scale for all of a token's activations."""
    return ACTIVATIONS[any(source.scale is not None for source in made.values())]


def _array(name: str, file: SafetensorsFile, rows: slice) -> npt.NDArray[np.generic]:
    """Rows of a stored tensor; a view of the file, but for BF16, which is the upper half of a float32."""
    view = np.atleast_1d(file.view(name))[rows]
    if file.tensors[name].dtype != "BF16":
        return view
    wide = np.empty(view.shape, np.uint32)
    for some in row_blocks(view.shape):
        wide[some] = view[some]
        drop_pages(view)
    wide <<= 16
    return wide.view(np.float32)


def _chat_template(folder: Path) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's chat_template (of several, the one named "default"), else None."""
    if exists(folder / TEMPLATE):
        return _read_text(folder / TEMPLATE)
    if not exists(folder / TOKENIZER_CONFIG):
        return None
    template = _read_json(folder / TOKENIZER_CONFIG).get("chat_template")
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if isinstance(entry, dict) and entry.get("name") == "default"), None)
    if not isinstance(template, str | None):
        raise ModelFileError(f"{folder / TOKENIZER_CONFIG}: chat_template is neither a string nor a list of named templates")
    return template


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: is not a JSON object")
    return value
