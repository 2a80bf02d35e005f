"""Builds `edgellm._native`: the C kernels behind cffi (API mode, stable ABI). `python csrc/build_native.py` builds it in place.

EDGELLM_CFLAGS is appended to the compiler's and the linker's flags (for sanitizers).
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).resolve().parent
ROOT = CSRC.parent
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-Wall", "-Wextra", "-Werror=incompatible-pointer-types"]
"""Bit-exactness: no contraction, no reassociation, no processor chosen at compile time."""


def csrc_files() -> list[Path]:
    """Every file that the compiled module depends on, in a fixed order."""
    return sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h", ".py") and "__pycache__" not in path.parts)


def csrc_hash() -> str:
    """Hash of the names and contents of csrc/; compiled in, so that a stale build is seen."""
    digest = hashlib.blake2b(digest_size=8)
    for path in csrc_files():
        digest.update(path.relative_to(CSRC).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def make_ffi() -> FFI:
    """The ffi with its sources and flags."""
    extra = os.environ.get("EDGELLM_CFLAGS", "").split()
    ffi = FFI()
    ffi.cdef((CSRC / "edgellm.cdef.h").read_text())
    ffi.set_source(
        "edgellm._native",
        '#include "edgellm.h"\n'
        f'const char *el_csrc_hash(void) {{ return "{csrc_hash()}"; }}\n'
        "#ifdef __clang__\n"
        "const char *el_compiler(void) { return __VERSION__; }\n"
        "#else\n"
        'const char *el_compiler(void) { return "gcc " __VERSION__; }\n'
        "#endif\n",
        sources=[path.relative_to(ROOT).as_posix() for path in csrc_files() if path.suffix == ".c"],
        include_dirs=[CSRC.relative_to(ROOT).as_posix()],
        depends=[path.relative_to(ROOT).as_posix() for path in csrc_files()],
        extra_compile_args=[*FLAGS, *extra],
        extra_link_args=["-pthread", *(["-lm"] if platform.system() == "Linux" else []), *extra],
        py_limited_api=True,
    )  # fmt: skip
    return ffi


ffibuilder = make_ffi()

if __name__ == "__main__":
    os.chdir(ROOT)  # the source paths are relative, as setuptools wants them
    ffibuilder.compile(verbose=True)
