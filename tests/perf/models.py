"""The models that are compared: ours, made from the default model, and llama.cpp's, made by its own quantizer from the same file.

What is below 4 bits was rounded to nearest, on both sides: such models are timed, and what they say is worth nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from edgellm.measure.backends.llama_cpp_models import TensorTypes, quantize, tensor_types
from tests.conftest import MODEL, converter_digest

PUBLISHED = "Q4_1"
"""The type of the default model as it is published; ours of that name is its lossless conversion."""
ROUNDED = {"rtn ternary, int4 head": ("ternary", "int4"), "rtn ternary, int8 head": ("ternary", "int8")}
"""Scheme of the body and of embedding and head, by the names that goals.toml uses."""


@dataclass(frozen=True)
class Models:
    """Files of the default model: as it is published (GGUF), converted losslessly, and others that are made when they are asked for."""

    published: Path
    lossless: Path

    def ours(self, name: str) -> Path:
        """One of our models."""
        from edgellm.quantize.quantize import Recipe
        from edgellm.quantize.quantize import quantize as round_to

        if name == PUBLISHED:
            return self.lossless
        recipe = Recipe.named(*ROUNDED[name])
        path = self.lossless.with_name(f"{MODEL}-{recipe.label}-{converter_digest()}.tmac2.bin")
        with FileLock(path.with_name("quantize.lock")):
            if not path.exists():
                round_to(self.published, path, recipe, progress=False)
        return path

    def peer(self, weights: str) -> tuple[Path, TensorTypes]:
        """The GGUF file of llama.cpp's type `weights`, and what its tensors are."""
        path = self.published
        if weights != PUBLISHED:
            path = self.lossless.with_name(f"{path.stem}-as-{weights}-by-{metadata.version('llama-cpp-python')}.gguf")
            with FileLock(path.with_name("quantize.lock")):
                if not path.exists():
                    quantize(self.published, weights, path.with_suffix(".part")).replace(path)
        return path, tensor_types(path)
