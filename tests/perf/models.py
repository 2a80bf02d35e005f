"""The models that are compared: ours, made from the default model, and llama.cpp's, made by its own quantizer from the same file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from edgellm.measure.backends.llama_cpp_models import TensorTypes, quantize, tensor_types

PUBLISHED = "Q4_1"
"""The type of the default model as it is published; ours of that name is its lossless conversion."""


@dataclass(frozen=True)
class Models:
    """Paths by name."""

    ours: Mapping[str, Path]
    """Our models that can be made here, by the names that goals.toml uses."""
    published: Path
    folder: Path

    def peer(self, weights: str) -> tuple[Path, TensorTypes]:
        """The GGUF file of llama.cpp's type `weights`, made if it is not there yet, and what its tensors are."""
        path = self.published
        if weights != PUBLISHED:
            path = self.folder / f"{path.stem}-as-{weights}-by-{metadata.version('llama-cpp-python')}.gguf"
            with FileLock(self.folder / "quantize.lock"):
                if not path.exists():
                    quantize(self.published, weights, path.with_suffix(".part")).replace(path)
        return path, tensor_types(path)
