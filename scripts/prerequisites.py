"""What building EdgeLLM needs from the machine, each missing piece named in one line together with how to get it.

Standard library only: it runs before anything is installed, from the Makefile's set-up and from setup.py.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SETUP_BYTES = 1_500_000_000
"""The environment takes 0.5 GB, what pip downloads 0.3 GB, the default model with its converted copies 0.3 GB; the rest is to spare."""


def missing_for_build() -> str | None:
    """What compiling the C module lacks: a compiler, Python's headers, the C library's headers. None when nothing is."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return f"no C compiler: '{compiler}' is not on PATH. Install one: apt-get install gcc libc6-dev (or set CC)"
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").is_file():
        return f"no Python.h in {include}. Install the headers of Python {PYTHON_VERSION}: apt-get install python{PYTHON_VERSION}-dev"
    trial = [compiler, "-fsyntax-only", "-I", include, "-x", "c", "-"]
    result = subprocess.run(trial, input="#include <Python.h>\n", text=True, capture_output=True, check=False)
    if result.returncode:
        complaint = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip())
        return f"'{compiler}' cannot compile against Python.h ({complaint}). Install the C library's headers: apt-get install libc6-dev"
    return None


def missing_for_environment(folder: Path) -> str | None:
    """What making the environment in `folder` lacks: the venv module, room on the disk. None when nothing is."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        return f"Python {PYTHON_VERSION} lacks its {error.name} module: apt-get install python{PYTHON_VERSION}-venv"
    free = shutil.disk_usage(folder).free
    if free < SETUP_BYTES:
        return f"disk full: {free / 1e9:.1f} GB free in {folder}, setting up needs {SETUP_BYTES / 1e9:.1f} GB. Free some space"
    return None
