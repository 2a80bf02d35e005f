"""Quantization by gradient descent, in torch: layer by layer (`reconstruct`) or the whole model (`distill`). Needs the extra `train`."""

from __future__ import annotations

from importlib import import_module

from edgellm.errors import InvalidRequestError


def require_packages() -> None:
    """Import what the extra brings, so that what is missing is an error of ours before anything is read or computed."""
    for package in ("torch", "transformers"):
        try:
            import_module(package)
        except ImportError as error:
            raise InvalidRequestError(f"training needs {package}, which is missing ({error}): pip install 'edgellm[train]'") from error
