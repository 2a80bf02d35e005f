"""Models in llama.cpp's own types, made from a GGUF file by its own quantizer, and what really came out.

llama.cpp's blocks of TQ2_0 and Q2_K span 256 columns. A matrix whose rows are no multiple of that gets another type, with a warning
among hundreds of lines; so the types are counted in the file that was written.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import ModelFileError
from edgellm.measure.backends.llama_cpp import binding


@dataclass(frozen=True)
class TensorTypes:
    """How many of the layers' matrices of a GGUF file have which type, and the type of the embedding (often the head as well)."""

    layers: dict[str, int]
    embedding: str

    def substituted(self, weights: str) -> str:
        """In words, what is not of the type `weights`: "180 of 210 matrices are Q4_0, the embedding Q8_0"; "" where the layers all are."""
        total = sum(self.layers.values())
        others = ", ".join(f"{count} of {total} matrices are {name}" for name, count in self.layers.items() if name != weights)
        return f"{others}, the embedding {self.embedding}" if others else ""


def quantize(source: Path, weights: str, destination: Path) -> Path:
    """Write `source` in llama.cpp's type `weights`, such as "Q4_0"; what is quantized already is quantized again.

    ModelFileError for a type that llama.cpp does not know, and when it fails.
    """
    llama_cpp = binding()
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # a line per tensor otherwise
    file_type = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{weights}", None)
    if file_type is None:
        raise ModelFileError(f"llama.cpp knows no type {weights!r} to quantize {source} to")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = file_type, True
    if status := llama_cpp.llama_model_quantize(bytes(source), bytes(destination), parameters):
        raise ModelFileError(f"llama.cpp cannot quantize {source} to {weights}: it gave {status}; its words are on standard error")
    return destination


def tensor_types(path: Path) -> TensorTypes:
    """Count the types of a GGUF file's matrices."""
    import gguf

    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) == 2}
    layers = Counter(kind for name, kind in types.items() if name.startswith("blk."))
    return TensorTypes(dict(layers.most_common()), types["token_embd.weight"])


def tensor_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Of a GGUF file's tensors: name -> (weights, bytes)."""
    import gguf

    return {tensor.name: (int(tensor.n_elements), int(tensor.n_bytes)) for tensor in gguf.GGUFReader(path).tensors}
