"""The C sources under other compilers than the one that built the module: every warning is an error."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from csrc.build_native import CSRC, FLAGS, csrc_files

ARM_HEADERS = Path("/usr/aarch64-linux-gnu/include")  # where Debian's libc6-dev-arm64-cross puts them
COMMANDS = {
    "gcc": ("gcc", "-Wshadow=local"),
    "clang": ("clang", "-Wshadow"),
    "clang for ARM": ("clang", "--target=aarch64-linux-gnu", f"-I{ARM_HEADERS}"),
}


@pytest.mark.parametrize("compiler", COMMANDS)
def test_no_warnings(compiler: str, tmp_path: Path) -> None:
    """Not optimised, which is quicker; code is generated because a function's instruction set is checked only then."""
    command = COMMANDS[compiler]
    if shutil.which(command[0]) is None or (compiler == "clang for ARM" and not ARM_HEADERS.is_dir()):
        pytest.skip(f"{' '.join(command)} is not installed with its headers")
    sources = [path for path in csrc_files() if path.suffix == ".c"]
    done = subprocess.run(
        [*command, *FLAGS, "-O0", "-Werror", "-I", CSRC, "-c", *sources], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
