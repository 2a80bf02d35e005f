"""The part of the build that pyproject.toml cannot say: the C module, and one clear line where it cannot be built."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))
from scripts.prerequisites import missing_for_build


class BuildExtension(build_ext):
    """build_ext that names a missing compiler or Python.h before the compiler's pages of errors do."""

    def run(self) -> None:
        """Check, then compile."""
        if problem := missing_for_build():
            raise SystemExit(f"edgellm: {problem}")
        super().run()


setup(cffi_modules=["csrc/build_native.py:ffibuilder"], cmdclass={"build_ext": BuildExtension})
