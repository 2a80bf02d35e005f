"""What every reader gives and the writer takes: a model, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.formats.matrix import QuantizedMatrix

Tensor = npt.NDArray[np.generic] | QuantizedMatrix
"""Float tensors come as float32, float16 or (from safetensors' BF16) float32; quantized ones as QuantizedMatrix."""

ACTIVATIONS = ("int8-g32", "int8-token")
"""What activations are quantized to before they meet a matrix: int8 with a scale per 32 of them, or one for all of a token's."""


@dataclass(frozen=True)
class Checkpoint:
    """A model read from a file or a folder.

    config:         Hugging Face `config.json` keys, verbatim
    tensors:        lazily read; iteration gives the names in model order
    tokenizer_json: the text of a Hugging Face `tokenizer.json`
    chat_template:  jinja2 source, or None
    provenance:     where it came from: at least `source` (file name or hub name) and `format`; once converted, `source_sha256` too
    activations:    one of ACTIVATIONS; a matter of the model, because one can be made for either
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer_json: str
    chat_template: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    activations: str = ACTIVATIONS[0]
